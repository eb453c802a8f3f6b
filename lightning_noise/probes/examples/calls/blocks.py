"""Gradients of a batch of matrices, one for each expert or head."""

import torch
from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.precision import working


class Blocks(Contribution):
    """c_i[e] = Σ_t r_iet c_ietᵀ: seen as one matrix, the rows of all blocks one below the other.

    Args:
        rows: shape (B, E, T, R).
        cols: shape (B, E, T, C).
    """

    def __init__(self, rows: Tensor, cols: Tensor) -> None:
        self.rows, self.cols = working(rows), working(cols)
        self.examples, self.blocks = rows.shape[:2]
        self.numbers = self.blocks * rows.shape[-1] * cols.shape[-1]

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B, m, C) along the rows, (B, m, E · R) along the columns."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        dense = signs.dense(self.rows.dtype)
        if form.side == "rows":
            by_block: Tensor = dense.unflatten(2, (self.blocks, -1)).transpose(1, 2)  # (B, E, m, R)
            found: Tensor = by_block @ self.rows.mT @ self.cols
            return found.sum(1)
        along = dense.unsqueeze(1) @ self.cols.mT @ self.rows  # (B, E, m, R)
        return along.transpose(1, 2).flatten(2)

    def norms(self) -> list[Tensor]:
        """Of the blocks one by one."""
        return Outer(self.rows.flatten(0, 1), self.cols.flatten(0, 1)).norms()

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, E, R, C)."""
        return self.rows[rows].mT @ self.cols[rows]

    def total(self) -> Tensor:
        """Shape (E, R, C)."""
        return torch.einsum("betr,betc->erc", self.rows, self.cols)
