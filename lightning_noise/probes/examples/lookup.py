"""Gradients of a table whose rows are looked up: sums of outer products with one-hot vectors."""

import torch
from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.outer import positions
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.norms import chunk_norms


class Lookup(Contribution):
    """c_i has the row Σ g_it over the positions t that hold its token.

    A token that comes twice has one row, the sum. With one sign for every token,
    Σ_t sign(id_t) g_t is a sketch.

    Args:
        grad: gradient at the output, shape (B, \\*positions, d).
        ids: tokens, shape (B, \\*positions).
        rows: of the table.
        padding: token whose row gets no gradient.
        sparse: whether the table's gradient is, and its sum should be.
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
        self.ids = ids.flatten(1) if ids.dim() > 1 else ids.unsqueeze(1)
        self.examples, self.positions, self.width = self.grad.shape
        self.rows = rows
        self.padding = padding
        self.sparse = sparse
        self.numbers = rows * self.width

    def _kept(self) -> Tensor:
        if self.padding is None:
            return self.grad
        return self.grad.masked_fill((self.ids == self.padding).unsqueeze(2), 0)

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B, m, d)."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        at = signs.at(self.ids, self.grad.dtype)  # (B, m, T)
        if self.padding is not None:
            at = at.masked_fill_((self.ids == self.padding).unsqueeze(1), 0)
        return torch.bmm(at, self.grad)

    def exact_is_cheap(self, sketches: int) -> bool:
        """With as few positions as there are sketches."""
        return self.positions <= sketches

    def norms(self) -> list[Tensor]:
        """Adds up the rows of equal tokens, then takes norms: no table is built."""
        ids, order = self.ids.sort(1)
        runs = torch.zeros_like(ids)  # which run of equal tokens a position is in
        torch.cumsum(ids[:, 1:] != ids[:, :-1], 1, out=runs[:, 1:])
        wide = (-1, -1, self.width)
        rows = self._kept().gather(1, order.unsqueeze(2).expand(wide))
        sums = torch.zeros_like(rows).scatter_add_(1, runs.unsqueeze(2).expand(wide), rows)
        return chunk_norms(sums)

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, tokens, d)."""
        grad = self._kept()[rows]
        table = grad.new_zeros(len(grad), self.rows, self.width)
        return table.scatter_add_(1, self.ids[rows].unsqueeze(2).expand_as(grad), grad)

    def total(self) -> Tensor:
        """As in the operation's own backward pass."""
        ids, grad = self.ids.flatten(), self._kept().flatten(0, 1)
        shape = (self.rows, self.width)
        if self.sparse:
            return torch.sparse_coo_tensor(ids.unsqueeze(0), grad, shape, check_invariants=False)
        return grad.new_zeros(shape).index_add_(0, ids, grad)
