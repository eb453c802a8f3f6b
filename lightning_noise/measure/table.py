"""Rows of moments that wait on the device until somebody reads them: one collective and one copy to the host for many steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.core.moments import Moments

Reduce = Callable[[Tensor], Tensor]


class StepRecord(NamedTuple):
    """One optimizer step after the sum over the world: examples used, and moments by key."""

    global_size: float
    moments: list[Moments]
    fault: str | None


class RowTable:
    """Partial rows of this rank, fp64 of shape (steps, keys, 4), summed over the world when they are read.

    Args:
        keys: number of keys.
        reduce: sums a tensor over all ranks; ``None`` for one process. Every rank must append the same number of rows.
    """

    def __init__(self, keys: int, reduce: Reduce | None = None) -> None:
        self._keys = keys
        self._reduce = reduce
        self._rows: list[Tensor] = []
        self._sizes: list[float] = []
        self._faults: list[str | None] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: Tensor, local_size: float, fault: str | None = None) -> None:
        """Adds this rank's part of one step; ``row`` stays where it is, nothing is read."""
        self._rows.append(row)
        self._sizes.append(local_size)
        self._faults.append(fault)

    def flush(self) -> list[StepRecord]:
        """Sums all waiting rows over the world and hands them out, oldest first. A collective, if any row waits."""
        if not self._rows:
            return []
        rows = torch.stack(self._rows).flatten(1)  # (steps, keys · 4)
        sizes = torch.tensor(self._sizes, dtype=torch.float64, device=rows.device)
        table = torch.cat([sizes[:, None], rows], dim=1)
        faults = self._faults
        self._rows, self._sizes, self._faults = [], [], []
        if self._reduce is not None:
            table = self._reduce(table)
        return [
            StepRecord(size, list(_split(values)), fault) for (size, *values), fault in zip(table.tolist(), faults, strict=True)
        ]


def _split(values: Sequence[float]) -> list[Moments]:
    return [Moments(*values[i : i + 4]) for i in range(0, len(values), 4)]
