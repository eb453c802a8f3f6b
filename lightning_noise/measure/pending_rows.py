"""Rows that wait on the device until somebody reads them: one collective and one copy to the host
for many steps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.setup import Reduce

NO_SIZE = "the number of examples in a batch could not be determined"


class PendingRow(NamedTuple):
    """This rank's part of one measurement.

    Args:
        source: which channel it belongs to.
        values: additive over the ranks, fp64 of shape (n,), on the device.
        size: examples that this rank used.
        fault: why it cannot be used; ``None`` if it can.
        learning_rate: of the step; a tensor is read when the row is.
    """

    source: str
    values: Tensor
    size: float
    fault: str | None = None
    learning_rate: Tensor | float | None = None


class ReadRow(NamedTuple):
    """One measurement after the sum over the ranks; fields as in :class:`PendingRow`."""

    source: str
    values: list[float]
    size: float
    fault: str | None
    learning_rate: float | None


class Totals(NamedTuple):
    """What was counted for a source since the last flush.

    Args:
        examples: used by all ranks, in measured steps and others.
        by_rank: each rank's own first value in its latest row, to tell ranks that saw the same.
    """

    examples: float
    by_rank: list[float]


class Flushed(NamedTuple):
    """What was waiting: the rows, oldest first, and the totals by source."""

    rows: list[ReadRow]
    totals: dict[str, Totals]


class PendingRows:
    """Partial rows of this rank, summed over the ranks when they are read.

    Args:
        reduce: sums a tensor over all ranks; ``None`` for one process. Every rank must append the
            same rows in the same order.
        rank: of this process among ``ranks`` replicas.
    """

    def __init__(self, reduce: Reduce | None = None, rank: int = 0, ranks: int = 1) -> None:
        self._reduce, self._rank, self._ranks = reduce, rank, ranks
        self._rows: list[PendingRow] = []
        self._examples: dict[str, float] = {}
        self._counted = 0  # steps, the same on all ranks, so that all of them flush or none

    def open(self, source: str) -> None:
        """Announces a source that counts examples; all ranks must do so in the same order."""
        self._examples.setdefault(source, 0.0)

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: PendingRow) -> None:
        """Adds a row, which stays where it is: nothing is read."""
        self._rows.append(row)

    def count(self, source: str, examples: float) -> None:
        """Adds to the examples that this rank has used, in measured steps and others."""
        self._examples[source] += examples
        self._counted += 1

    def forget(self) -> None:
        """Drops all that waits, without a collective; for after an error."""
        self._rows, self._counted = [], 0
        self._examples = dict.fromkeys(self._examples, 0.0)

    def flush(self, device: torch.device) -> Flushed:
        """Sums all that waits over the ranks and hands it out. One collective, if
        anything waits.
        """
        if not self._rows and not self._counted:
            return Flushed([], {})
        rows, sources = self._rows, list(self._examples)
        packed = self._pack(device)
        self.forget()
        if self._reduce is not None:
            packed = self._reduce(packed)
        numbers = iter(packed.tolist())
        totals = {}
        for source in sources:
            by_rank = [next(numbers) for _ in range(self._ranks)]
            totals[source] = Totals(next(numbers), by_rank)
        found = []
        for row in rows:
            size = next(numbers)
            found.append(_read(row, size, [next(numbers) for _ in range(len(row.values))]))
        return Flushed(found, totals)

    def _pack(self, device: torch.device) -> Tensor:
        """For each source the ranks' latest first values and the examples, then each row's size and
        values.
        """
        latest = {row.source: row.values for row in self._rows}
        sizes = [math.nan if row.fault == NO_SIZE else row.size for row in self._rows]
        counts = [*self._examples.values(), *sizes]
        on_device = torch.tensor(
            counts, dtype=torch.float64, device=device
        )  # one copy from the host
        parts = []
        for index, source in enumerate(self._examples):
            own = on_device.new_zeros(self._ranks)
            if source in latest:
                own[self._rank] = latest[source][0]
            parts += [own, on_device[index : index + 1]]
        for index, row in enumerate(self._rows, start=len(self._examples)):
            parts += [on_device[index : index + 1], row.values]
        return torch.cat(parts)


def _read(row: PendingRow, size: float, values: list[float]) -> ReadRow:
    """A size that one rank cannot determine makes the sum NaN, so that all ranks give the same
    reason.
    """
    fault = row.fault
    if math.isnan(size):
        size, fault = 0.0, NO_SIZE
    rate = None if row.learning_rate is None else float(row.learning_rate)
    return ReadRow(row.source, values, size, fault, rate)
