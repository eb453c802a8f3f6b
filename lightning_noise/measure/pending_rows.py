"""Rows of moments that wait on the device until somebody reads them: one collective and one copy to the host for many steps."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.core.moments import Moments

Reduce = Callable[[Tensor], Tensor]
NO_SIZE = "the number of examples in a batch could not be determined"


class StepRecord(NamedTuple):
    """One optimizer step after the sum over the world.

    Args:
        global_size: examples used.
        moments: by key.
        fault: why the step cannot be used; ``None`` if it can.
        learning_rate: of the step; ``None`` where it is not known.
    """

    global_size: float
    moments: list[Moments]
    fault: str | None
    learning_rate: float | None = None


class Flushed(NamedTuple):
    """What a table held.

    Args:
        records: the steps, oldest first.
        by_rank: each rank's own part of the headline's ``q_small`` in the latest step, to tell ranks that saw the same.
        examples: used by all ranks since the last flush, in measured steps and others.
    """

    records: list[StepRecord]
    by_rank: list[float]
    examples: float


class RowTable:
    """Partial rows of this rank, fp64 of shape (steps, keys, 4), summed over the world when they are read.

    Args:
        keys: number of keys.
        reduce: sums a tensor over all ranks; ``None`` for one process. Every rank must append the same number of rows.
        rank: of this process among ``world_size`` replicas.
    """

    def __init__(self, keys: int, reduce: Reduce | None = None, rank: int = 0, world_size: int = 1) -> None:
        self._keys = keys
        self._reduce = reduce
        self._rank, self._world_size = rank, world_size
        self._rows: list[Tensor] = []
        self._sizes: list[float] = []
        self._faults: list[str | None] = []
        self._rates: list[Tensor | float | None] = []
        self._examples = 0.0
        self._counted = 0  # steps, the same on all ranks, so that all of them flush or none

    def __len__(self) -> int:
        return len(self._rows)

    def append(
        self,
        row: Tensor,
        local_size: float,
        fault: str | None = None,
        learning_rate: Tensor | float | None = None,
    ) -> None:
        """Adds this rank's part of one step; ``row`` stays where it is, nothing is read."""
        self._rows.append(row)
        self._sizes.append(math.nan if fault == NO_SIZE else local_size)
        self._faults.append(fault)
        self._rates.append(learning_rate)

    def count(self, examples: float) -> None:
        """Adds to the examples that this rank has used, in measured steps and others."""
        self._examples += examples
        self._counted += 1

    def flush(self, device: torch.device) -> Flushed:
        """Sums all that waits over the world and hands it out, oldest first. One collective, if anything waits."""
        if not self._rows and not self._counted:
            return Flushed([], [], 0.0)
        sizes = torch.tensor([self._examples, *self._sizes], dtype=torch.float64, device=device)
        own = torch.zeros(self._world_size, dtype=torch.float64, device=device)
        rows = torch.stack(self._rows).flatten(1) if self._rows else sizes.new_zeros(0, 4 * self._keys)  # (steps, keys · 4)
        if self._rows:
            own[self._rank] = rows[-1, 0]
        values = torch.cat([own, sizes[:1], torch.cat([sizes[1:, None], rows], dim=1).flatten()])
        faults, rates = self._faults, self._rates
        self._rows, self._sizes, self._faults, self._rates = [], [], [], []
        self._examples, self._counted = 0.0, 0
        if self._reduce is not None:
            values = self._reduce(values)
        read = values.tolist()
        by_rank, examples, steps = read[: self._world_size], read[self._world_size], read[self._world_size + 1 :]
        width = 1 + 4 * self._keys
        records = [
            _record(steps[at : at + width], fault, rate)
            for at, fault, rate in zip(range(0, len(steps), width), faults, rates, strict=True)
        ]
        return Flushed(records, by_rank, examples)


def _record(values: Sequence[float], fault: str | None, rate: Tensor | float | None) -> StepRecord:
    """A size that one rank cannot determine makes the sum NaN, so that all ranks give the same reason."""
    size = values[0]
    if math.isnan(size):
        size, fault = 0.0, NO_SIZE
    return StepRecord(size, _split(values[1:]), fault, None if rate is None else float(rate))


def _split(values: Sequence[float]) -> list[Moments]:
    return [Moments(*values[i : i + 4]) for i in range(0, len(values), 4)]
