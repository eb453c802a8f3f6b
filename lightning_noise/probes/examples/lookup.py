"""Gradients of a table whose rows are looked up: sums of outer products with one-hot vectors."""

import torch
from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.outer import positions
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.norms import chunk_norms


class Lookup(Contribution):
    """c_i has one row per token of example i: Σ g_it over the positions t that hold the token.

    With one sign for every token, Σ_t sign(id_t) g_t is a sketch.

    Args:
        grad: gradient at the output, shape (B, \\*positions, d).
        ids: tokens, shape (B, \\*positions).
        rows: number of rows of the table.
        padding: token whose row gets no gradient.
        sparse: whether the gradient of the table is sparse, so that the sum must be sparse too.
    """

    def __init__(
        self,
        grad: Tensor,
        ids: Tensor,
        rows: int,
        padding: int | None,
        sparse: bool = False,
    ) -> None:
        self.grad = working(positions(grad))
        if ids.dim() == 1:
            ids = ids.unsqueeze(1)
        self.ids = ids.flatten(1)
        self.examples, self.positions, self.width = self.grad.shape
        self.rows = rows
        self.padding = padding
        self.sparse = sparse
        self.numbers = rows * self.width

    def _kept(self) -> Tensor:
        if self.padding is None:
            return self.grad
        is_padding = self.ids == self.padding
        return self.grad.masked_fill(is_padding.unsqueeze(2), 0)

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B, m, d)."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        at = signs.at(self.ids, self.grad.dtype)  # (B, m, T)
        if self.padding is not None:
            is_padding = self.ids == self.padding
            at = at.masked_fill_(is_padding.unsqueeze(1), 0)
        return torch.bmm(at, self.grad)

    def exact_is_cheap(self, sketches: int) -> bool:
        """Where there are no more positions than sketches."""
        return self.positions <= sketches

    def norms(self) -> list[Tensor]:
        """Adds up the rows of equal tokens, then takes norms. No table is built."""
        ids, order = self.ids.sort(1)
        runs = torch.zeros_like(ids)  # which run of equal tokens a position is in
        starts_run = ids[:, 1:] != ids[:, :-1]
        torch.cumsum(starts_run, 1, out=runs[:, 1:])
        wide = (-1, -1, self.width)
        order = order.unsqueeze(2).expand(wide)
        runs = runs.unsqueeze(2).expand(wide)
        rows = self._kept().gather(1, order)
        sums = torch.zeros_like(rows)
        sums.scatter_add_(1, runs, rows)
        return chunk_norms(sums)

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, tokens, d)."""
        grad = self._kept()[rows]
        ids = self.ids[rows].unsqueeze(2).expand_as(grad)
        table = grad.new_zeros(len(grad), self.rows, self.width)
        return table.scatter_add_(1, ids, grad)

    def total(self) -> Tensor:
        """The sum, computed as in the backward pass of the operation."""
        ids = self.ids.flatten()
        grad = self._kept().flatten(0, 1)
        shape = (self.rows, self.width)
        if self.sparse:
            return torch.sparse_coo_tensor(ids.unsqueeze(0), grad, shape, check_invariants=False)
        return grad.new_zeros(shape).index_add_(0, ids, grad)
