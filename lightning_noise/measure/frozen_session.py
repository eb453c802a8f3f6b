"""A measurement at frozen weights: samples in, estimates by geometry out."""

from collections.abc import Iterator, Sequence

import torch

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.moments import Key
from lightning_noise.core.windows import Windows
from lightning_noise.measure.curvature_rows import SOURCE as CURVATURE
from lightning_noise.measure.curvature_rows import pack, read_row
from lightning_noise.measure.frozen_sample import CURVED, Batch, Pause
from lightning_noise.measure.measurement import Measurement
from lightning_noise.measure.pending_rows import PendingRow
from lightning_noise.measure.readings import Average

SAMPLES = "samples"


class FrozenSession(Measurement):
    """Measures the noise scales of a model whose weights do not change.

    Args:
        pause: takes the samples.
        geometries: what to measure: "euclidean", "optimizer", "hessian", "gauss_newton".
    """

    def __init__(self, pause: Pause, geometries: Sequence[str]) -> None:
        super().__init__()
        self._pause = pause
        self._flat = [name for name in geometries if name not in CURVED]
        self._curved = [name for name in geometries if name in CURVED]
        averages: dict[Key, Average] = {}
        for name in self._flat:
            averages[Key(name)] = Windows(1.0, short=())  # nothing changes: the plain mean
        for name in self._curved:
            averages[Key(name)] = CurvatureAverage(1.0)
        self.begin_averages(averages, [""])
        self.open_steps(SAMPLES, map(Key, self._flat), optimizer="")
        self.open_channel(CURVATURE, lambda row: read_row(self._curved, row, self.readings))

    def sample(self, batches: Iterator[Batch], pairs: int) -> float:
        """Takes one sample from so many pairs of micro-batches, and reads it.

        Returns:
            The examples that it used.
        """
        probe = self._pause.probe(batches, pairs)
        flat: list[float] = []
        for name in self._flat:
            flat += probe.flat[name]
        self._append(SAMPLES, flat, probe.examples)
        self._append(CURVATURE, pack(self._curved, probe.curved), probe.examples)
        self.read()
        return probe.examples

    def _append(self, source: str, numbers: list[float], size: float) -> None:
        if numbers:
            values = torch.tensor(
                numbers, dtype=torch.float64
            )  # a sample's numbers are on the host
            self.rows.append(PendingRow(source, values, size))

    @property
    def averages(self) -> list[RunningAverage]:
        """The running average of every geometry, which tells how precise it is."""
        found = [self.readings.windows(Key(name)).current() for name in self._flat]
        return found + [average.average for average in self.curvatures.values()]
