"""Gradients that are sums of outer products over positions, as of a linear map: Σ_t g_t a_tᵀ."""

import torch
from torch import Tensor

from lightning_noise.probes.examples.contribution import (
    Contribution,
    Form,
    NotPerExample,
    slices,
)
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.precision import factors, row_norms, shrinkage, working


def positions(tensor: Tensor) -> Tensor:
    """(B, \\*positions, n) as (B, T, n); T = 1 where there are none.

    >>> positions(torch.zeros(2, 3, 4, 5)).shape, positions(torch.zeros(2, 5)).shape
    (torch.Size([2, 12, 5]), torch.Size([2, 1, 5]))
    """
    if tensor.dim() < 2:
        raise NotPerExample("it was called without a batch dimension")
    if tensor.dim() == 2:
        return tensor.unsqueeze(1)
    return tensor if tensor.dim() == 3 else tensor.flatten(1, -2)


def over_positions(tensor: Tensor, kept: int) -> Tensor:
    """Sum over all dimensions but the first and the ``kept`` last ones."""
    if tensor.dim() <= kept:
        raise NotPerExample("it was called without a batch dimension")
    return tensor.flatten(1, -1 - kept).sum(1) if tensor.dim() > kept + 1 else tensor


class Outer(Contribution):
    """c_i = Σ_t g_it a_itᵀ, never built where a sketch, a Gram matrix or two norms will do.

    With signs r along the columns c_i r = Σ_t g_it (a_it·r) costs two thin products, 2T(K + L),
    where building costs 2TKL.

    Args:
        grad: gradient at the layer's output, shape (B, \\*positions, L).
        inputs: what the weight was multiplied with, shape (B, \\*positions, K).
        bias: name of the operand that was multiplied with 1 beside the weight: together they are
            one matrix [W b].
    """

    def __init__(self, grad: Tensor, inputs: Tensor, bias: str | None = None) -> None:
        self.grad, self.inputs = factors(positions(grad), positions(inputs))
        self.bias = bias
        self.examples, self.positions, self.rows = self.grad.shape
        self.cols = self.inputs.shape[2]
        self.numbers = self.rows * self.cols

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B, m, L) along the columns, (B, m, K) along the rows."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        near, far = (self.inputs, self.grad) if form.side == "cols" else (self.grad, self.inputs)
        small = shrinkage(form.signs, near)
        dense = signs.dense(near.dtype)
        dense = dense * small if small < 1 else dense
        # a row vector times a matrix: on the CPU a matrix times a column took eight times as long
        along = torch.bmm(dense, near.transpose(1, 2))
        sketch = torch.bmm(along, far)
        return sketch.float() / small if small < 1 else sketch

    def sketch_with_bias(self, form: Form, signs: Signs) -> Tensor:
        """Of [W b], at the price of W: (B, m, L) along columns, (B, m, K + 1) along rows."""
        small = shrinkage(form.signs, self.grad)
        dense = signs.dense(self.grad.dtype, also=1)
        dense = dense * small if small < 1 else dense
        if form.side == "cols":
            along = torch.bmm(dense[..., :-1], self.inputs.transpose(1, 2))  # (B, m, T)
            along = along + dense[..., -1:]
            sketch = torch.bmm(along, self.grad)
        else:
            along = torch.bmm(dense[..., :-1], self.grad.transpose(1, 2))
            sketch = torch.cat([torch.bmm(along, self.inputs), along.sum(2, keepdim=True)], 2)
        return sketch.float() / small if small < 1 else sketch

    def exact_is_cheap(self, sketches: int) -> bool:
        """With as few positions, or as few rows or columns, as there are sketches."""
        return min(self.positions, self.rows, self.cols) <= sketches

    def norms(self) -> list[Tensor]:
        """One position: |g| |a|. More: the cheaper of Gram matrices and building.

        The Gram matrices of both factors cost 2T²(K + L), building costs 2TKL.
        """
        if self.positions == 1:
            return [row_norms(self.grad[:, 0]) * row_norms(self.inputs[:, 0])]
        if self.positions * (self.rows + self.cols) < self.numbers:
            return [self._gram(rows) for rows in slices(self.examples, self.positions**2)]
        return super().norms()

    def norms_with_bias(self) -> list[Tensor]:
        """Of [W b] at one position: |g| (|a|² + 1)^½."""
        inputs = row_norms(self.inputs[:, 0])
        return [row_norms(self.grad[:, 0]) * torch.hypot(inputs, torch.ones_like(inputs))]

    def _gram(self, rows: slice) -> Tensor:
        g, a = working(self.grad[rows]), working(self.inputs[rows])
        grams = torch.bmm(g, g.transpose(1, 2))  # (rows, T, T)
        grams.mul_(torch.bmm(a, a.transpose(1, 2)))
        return grams.sum((1, 2)).clamp_min(0).sqrt()

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, L, K)."""
        return torch.bmm(working(self.grad[rows]).transpose(1, 2), working(self.inputs[rows]))

    def total(self) -> Tensor:
        """One product over all examples, as in the layer's own backward pass."""
        return working(self.grad).flatten(0, 1).t() @ working(self.inputs).flatten(0, 1)
