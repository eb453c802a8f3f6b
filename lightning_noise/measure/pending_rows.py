"""Rows that wait on the device until they are read: one collective and one copy to the host for
many steps.
"""

import math
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.core.reasons import Reason
from lightning_noise.measure.skips import NO_SIZE
from lightning_noise.probes.double_float import Wide, has_float64, in_float64
from lightning_noise.probes.setup import Reduce

Scalar = Tensor | float | None  # a tensor stays on its device until rows are read


class PendingRow(NamedTuple):
    """This rank's part of one measurement.

    Args:
        source: which channel it belongs to.
        values: additive over the ranks, fp64 of shape (n,), on the device; in pairs where it has no
            fp64.
        size: examples that this rank used.
        fault: why it cannot be used; ``None`` if it can.
        learning_rate: of the step; a tensor is read when the row is.
    """

    source: str
    values: Wide
    size: float
    fault: Reason | None = None
    learning_rate: Scalar = None


class ReadRow(NamedTuple):
    """One measurement after the sum over the ranks; fields as in :class:`PendingRow`."""

    source: str
    values: list[float]
    size: float
    fault: Reason | None
    learning_rate: float | None


class Totals(NamedTuple):
    """What was counted for a source since the last flush.

    Args:
        examples: used by all ranks, in measured steps and others.
        by_rank: each rank's own first value in its latest row, to detect ranks that saw the same
            examples.
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

    def __init__(
        self,
        reduce: Reduce | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._reduce = reduce
        self._rank = rank
        self._ranks = ranks
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
        """Drops all that waits, without a collective. For use after an error."""
        self._rows = []
        self._counted = 0
        self._examples = dict.fromkeys(self._examples, 0.0)

    def flush(self, device: torch.device) -> Flushed:
        """Sums all that waits over the ranks, with one collective if anything waits."""
        if not self._rows and not self._counted:
            return Flushed([], {})
        if not has_float64(device):
            device = self._move_to_host()
        rows = self._rows
        sources = list(self._examples)
        packed = self._pack(device)
        self.forget()
        if self._reduce is not None:
            packed = self._reduce(packed)
        numbers = iter(packed.tolist())
        totals: dict[str, Totals] = {}
        for source in sources:
            by_rank = list(islice(numbers, self._ranks))
            totals[source] = Totals(next(numbers), by_rank)
        found: list[ReadRow] = []
        for row in rows:
            size = next(numbers)
            length = len(row.values)
            values = list(islice(numbers, length))
            found.append(_read(row, size, values))
        return Flushed(found, totals)

    def _move_to_host(self) -> torch.device:
        """The rows that wait, in fp64; the one copy of this flush."""
        if self._rows:
            values = in_float64([row.values for row in self._rows])
            pairs = zip(self._rows, values, strict=True)
            self._rows = [row._replace(values=value) for row, value in pairs]
        return torch.device("cpu")

    def _pack(self, device: torch.device) -> Tensor:
        """For each source the ranks' latest first values and the examples, then each row's size and
        values.
        """
        latest = {row.source: row.values for row in self._rows}
        counts = [*self._examples.values(), *map(_size_to_sum, self._rows)]
        # one copy from the host
        on_device = torch.tensor(counts, dtype=torch.float64, device=device)
        parts: list[Tensor] = []
        for index, source in enumerate(self._examples):
            own = on_device.new_zeros(self._ranks)
            if source in latest:
                values = latest[source]
                own[self._rank] = values[0]
            examples = on_device[index : index + 1]
            parts += [own, examples]
        sizes = on_device[len(self._examples) :]
        for index, row in enumerate(self._rows):
            size = sizes[index : index + 1]
            parts += [size, row.values]
        return torch.cat(parts)


def _size_to_sum(row: PendingRow) -> float:
    """A size that one rank cannot determine makes the sum NaN, so that all ranks give the same
    reason.
    """
    if row.fault is not None and row.fault.code == NO_SIZE.code:
        return math.nan
    return row.size


def _read(row: PendingRow, size: float, values: list[float]) -> ReadRow:
    """The row after the sum over the ranks; see :func:`_size_to_sum`."""
    fault = row.fault
    if math.isnan(size):
        size = 0.0
        fault = NO_SIZE
    rate = row.learning_rate
    if rate is not None:
        rate = float(rate)
    return ReadRow(row.source, values, size, fault, rate)
