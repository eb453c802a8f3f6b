"""Gradients that are sums of outer products over positions, as in a linear map: Σ_t g_t a_tᵀ."""

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
    """(B, \\*positions, n) as (B, T, n), with T = 1 where there are no positions.

    >>> positions(torch.zeros(2, 3, 4, 5)).shape, positions(torch.zeros(2, 5)).shape
    (torch.Size([2, 12, 5]), torch.Size([2, 1, 5]))
    """
    if tensor.dim() < 2:
        raise NotPerExample("it was called without a batch dimension")
    if tensor.dim() == 2:
        return tensor.unsqueeze(1)
    if tensor.dim() == 3:
        return tensor
    return tensor.flatten(1, -2)


def over_positions(tensor: Tensor, kept: int) -> Tensor:
    """Sum over all dimensions but the first and the ``kept`` last ones."""
    if tensor.dim() <= kept:
        raise NotPerExample("it was called without a batch dimension")
    if tensor.dim() == kept + 1:
        return tensor
    return tensor.flatten(1, -1 - kept).sum(1)


class Outer(Contribution):
    """c_i = Σ_t g_it a_itᵀ, never built where a sketch, a Gram matrix or two norms will do.

    With signs r along the columns, c_i r = Σ_t g_it (a_it·r) costs two thin products, 2T(K + L),
    while building costs 2TKL.

    Args:
        grad: gradient at the layer's output, shape (B, \\*positions, L).
        inputs: what the weight was multiplied with, shape (B, \\*positions, K).
        bias: name of the operand that is multiplied with 1: together with the weight it is one
            matrix [W b].
    """

    def __init__(
        self,
        grad: Tensor,
        inputs: Tensor,
        bias: str | None = None,
    ) -> None:
        self.grad, self.inputs = factors(positions(grad), positions(inputs))
        self.bias = bias
        self.examples, self.positions, self.rows = self.grad.shape
        self.cols = self.inputs.shape[2]
        self.numbers = self.rows * self.cols

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B, m, L) along the columns, (B, m, K) along the rows."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        near = self.grad
        far = self.inputs
        if form.side == "cols":
            near, far = far, near
        small = shrinkage(form.signs, near)
        dense = signs.dense(near.dtype)
        if small < 1:
            dense = dense * small
        # a row vector times a matrix: on the CPU a matrix times a column took eight times as long
        along = torch.bmm(dense, near.transpose(1, 2))
        sketch = torch.bmm(along, far)
        if small < 1:
            return sketch.float() / small
        return sketch

    def sketch_with_bias(self, form: Form, signs: Signs) -> Tensor:
        """Of [W b], at the cost of W: (B, m, L) along the columns, (B, m, K + 1) along the rows."""
        small = shrinkage(form.signs, self.grad)
        dense = signs.dense(self.grad.dtype, also=1)
        if small < 1:
            dense = dense * small
        of_weight = dense[..., :-1]
        of_bias = dense[..., -1:]
        if form.side == "cols":
            along = torch.bmm(of_weight, self.inputs.transpose(1, 2))  # (B, m, T)
            along = along + of_bias
            sketch = torch.bmm(along, self.grad)
        else:
            along = torch.bmm(of_weight, self.grad.transpose(1, 2))
            bias_sketch = along.sum(2, keepdim=True)
            sketch = torch.cat([torch.bmm(along, self.inputs), bias_sketch], 2)
        if small < 1:
            return sketch.float() / small
        return sketch

    def exact_is_cheap(self, sketches: int) -> bool:
        """Where there are no more positions, rows or columns than sketches."""
        return min(self.positions, self.rows, self.cols) <= sketches

    def norms(self) -> list[Tensor]:
        """|g| |a| for one position. For more, the cheaper of Gram matrices and building.

        The Gram matrices of both factors cost 2T²(K + L), building costs 2TKL.
        """
        if self.positions == 1:
            return [row_norms(self.grad) * row_norms(self.inputs)]
        if self.positions * (self.rows + self.cols) < self.numbers:
            return [self._gram(rows) for rows in slices(self.examples, self.positions**2)]
        return super().norms()

    def norms_with_bias(self) -> list[Tensor]:
        """Of [W b] at one position: |g| (|a|² + 1)^½."""
        of_grad = row_norms(self.grad)
        of_inputs = row_norms(self.inputs)
        with_bias = torch.hypot(of_inputs, torch.ones_like(of_inputs))
        return [of_grad * with_bias]

    def _gram(self, rows: slice) -> Tensor:
        g = working(self.grad[rows])
        a = working(self.inputs[rows])
        grams = torch.bmm(g, g.transpose(1, 2))  # (rows, T, T)
        grams.mul_(torch.bmm(a, a.transpose(1, 2)))
        return grams.sum((1, 2)).clamp_min(0).sqrt()

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, L, K)."""
        g = working(self.grad[rows])
        a = working(self.inputs[rows])
        return torch.bmm(g.transpose(1, 2), a)

    def total(self) -> Tensor:
        """One product over all examples, as in the layer's own backward pass."""
        g = working(self.grad).flatten(0, 1)
        a = working(self.inputs).flatten(0, 1)
        return g.t() @ a
