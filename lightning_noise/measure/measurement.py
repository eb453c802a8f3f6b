"""What every measurement has in common, whoever drives it: rows in, estimates by key out."""

from collections.abc import Callable, Iterable, Mapping

import torch

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.measure.pending_rows import PendingRows, ReadRow
from lightning_noise.measure.readings import Average, Readings, Sink

Channel = Callable[[ReadRow], None]


class Measurement:
    """Rows of one or several channels in, estimates by key out.

    A channel appends rows, which wait on the device. :meth:`read` sums them over the ranks and adds
    them to the averages, one per key. :class:`~lightning_noise.measure.session.Session` measures a
    training loop,
    :class:`~lightning_noise.measure.frozen_session.FrozenSession` samples at frozen weights.

    Args:
        rows: where the channels put their rows; ``None`` for one process.
        decay_by_examples: a decay is that of a step of the first size, and larger steps decay by as
            much more.

    >>> from lightning_noise.core.windows import Windows
    >>> from lightning_noise.measure.pending_rows import PendingRow
    >>> measurement = Measurement()
    >>> measurement.begin_averages({Key(): Windows(1.0)}, [""])
    >>> measurement.open_steps("steps", [Key()], optimizer="")
    >>> values = torch.tensor([5.5, 4.5, 1.0, 0.5], dtype=torch.float64)
    >>> measurement.rows.append(PendingRow("steps", values, size=2.0))
    >>> measurement.read()
    1
    >>> measurement.estimate().noise, measurement.estimate().signal
    (2.0, 3.5)
    """

    def __init__(self, rows: PendingRows | None = None, *, decay_by_examples: bool = False) -> None:
        self.rows = PendingRows() if rows is None else rows
        self.readings = Readings(decay_by_examples=decay_by_examples)
        self._channels: dict[str, Channel] = {}

    def begin_averages(self, averages: Mapping[Key, Average], optimizers: Iterable[str]) -> None:
        """Begins the averages, one per key, and a tally for each optimizer."""
        self.readings.open(averages, optimizers)

    def open_channel(self, source: str, read: Channel) -> None:
        """Hands the rows of ``source`` to ``read`` from here on."""
        self._channels[source] = read

    def open_steps(self, source: str, keys: Iterable[Key], *, optimizer: str) -> None:
        """The rows of ``source`` hold the moments of ``keys`` one after the other."""
        listed = list(keys)
        self.open_channel(source, lambda row: self.readings.take_step(optimizer, listed, row))

    @property
    def device(self) -> torch.device:
        """Where the rows wait."""
        return torch.device("cpu")

    @property
    def pending(self) -> int:
        """Measurements that have not been read yet."""
        return len(self.rows)

    def read(self) -> int:
        """Reads all that waits: the only collective and the only wait for the device.

        Returns:
            The number of measurements that were waiting.
        """
        flushed = self.rows.flush(self.device)
        for name, totals in flushed.totals.items():
            self.readings.tallies[name].add(totals)
        for row in flushed.rows:
            self._channels[row.source](row)
        return len(flushed.rows)

    def forget_unread(self) -> None:
        """Drops what waits, without a collective; for after an error."""
        self.rows.forget()

    def observe(self, sink: Sink) -> None:
        """Hands every reading to ``sink`` from here on."""
        self.readings.observe(sink)

    def estimate(self, key: Key = Key(), confidence: float = 0.95) -> NoiseEstimate:
        """The estimate from all that has been read (call :meth:`read` first to include the latest).

        Raises:
            KeyError: no such key is measured.
        """
        return self.readings.estimate(key, confidence)

    @property
    def trajectories(self) -> dict[Key, Trajectory]:
        """First, mean and last resolved value of every noise scale of the whole model."""
        return self.readings.trajectories

    @property
    def curvatures(self) -> dict[str, CurvatureAverage]:
        """Averages of curvatures, by geometry."""
        found: dict[str, CurvatureAverage] = {}
        for key, average in self.readings.averages.items():
            if isinstance(average, CurvatureAverage):
                found[key.geometry] = average
        return found
