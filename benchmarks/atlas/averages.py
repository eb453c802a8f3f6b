"""Noise scales at moments of a run and averaged over it, with intervals. Pure.

A noise scale is a ratio of sums over steps and seeds. Neighbouring bins of steps are joined until
the signal of each group is resolved, so that no ratio is near a pole. Bins are in units of their
own noise when they are joined: gradients, and more so the metric of an optimizer, change by orders
of magnitude within a run.
"""

import math
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from lightning_noise.tradeoff import PredictedCurve, predicted_curve

RESOLVED = 4.0  # standard errors of the signal above zero
DRAWS = 500


class Bin(Protocol):
    """What is read of a row of ``atlas_noise``."""

    steps: int
    measured: int
    signal: float
    noise: float
    signal_sq: float
    noise_sq: float
    cross: float


class Group(NamedTuple):
    """Sums over the steps of some bins.

    Args:
        steps: measured or not.
        measured: steps that the sums are over.
        signal, noise: sums of the unbiased |G|² and tr(Σ).
        signal_sq, noise_sq, cross: sums of their squares and of their product.
    """

    steps: float
    measured: float
    signal: float
    noise: float
    signal_sq: float
    noise_sq: float
    cross: float

    @property
    def noise_scale(self) -> float:
        """Infinite where the signal is not above zero."""
        if self.signal <= 0:
            return math.inf
        return max(self.noise, 0.0) / self.signal

    def covariance(self) -> tuple[float, float, float]:
        """Of the sums (signal, noise): two variances and the covariance."""
        n = self.measured
        spread = n / (n - 1)
        return (
            spread * max(self.signal_sq - self.signal**2 / n, 0.0),
            spread * max(self.noise_sq - self.noise**2 / n, 0.0),
            spread * (self.cross - self.signal * self.noise / n),
        )

    @property
    def is_resolved(self) -> bool:
        """Whether the signal is well above zero, and the noise above it."""
        if self.measured < 3 or self.noise <= 0:
            return False
        return self.signal > RESOLVED * math.sqrt(self.covariance()[0])

    def normalised(self) -> "Group":
        """In units of the noise of a step, so that no group with large gradients dominates.

        The unit is the root mean square, which is above zero in any metric.
        """
        if self.noise_sq == 0:
            return self
        unit = math.sqrt(self.noise_sq / self.measured)
        return self._replace(
            signal=self.signal / unit,
            noise=self.noise / unit,
            signal_sq=self.signal_sq / unit**2,
            noise_sq=self.noise_sq / unit**2,
            cross=self.cross / unit**2,
        )

    def drawn(self, source: random.Random) -> "Group":
        """Other sums that the same run could have given."""
        signal_var, noise_var, cross = self.covariance()
        first, second = source.gauss(0, 1), source.gauss(0, 1)
        signal = self.signal + math.sqrt(signal_var) * first
        slope = cross / signal_var if signal_var > 0 else 0.0
        rest = math.sqrt(max(noise_var - slope * cross, 0.0))
        noise = self.noise + slope * (signal - self.signal) + rest * second
        return self._replace(signal=signal, noise=noise)


def pooled(bins: Iterable[Bin]) -> Group:
    """The sum of several bins."""
    listed = list(bins)
    return Group(
        steps=math.fsum(one.steps for one in listed),
        measured=math.fsum(one.measured for one in listed),
        signal=math.fsum(one.signal for one in listed),
        noise=math.fsum(one.noise for one in listed),
        signal_sq=math.fsum(one.signal_sq for one in listed),
        noise_sq=math.fsum(one.noise_sq for one in listed),
        cross=math.fsum(one.cross for one in listed),
    )


def joined(groups: Sequence[Group]) -> list[Group]:
    """Neighbours together until each group is resolved; empty where all of them together are not.

    What is left at the end joins the last group.
    """
    found: list[Group] = []
    waiting: list[Group] = []
    for group in groups:
        waiting.append(group)
        together = pooled(waiting)
        if together.is_resolved:
            found.append(together)
            waiting = []
    if found and waiting:
        found[-1] = pooled([found[-1], *waiting])
    return found


class Averages(NamedTuple):
    """A noise scale of a run up to a goal, in examples.

    Args:
        start: of the first steps that resolve it.
        steps: mean over steps.
        progress: mean over progress, a step weighs 1/(1 + R/B).
        goal: of the last steps before the goal that resolve it.
    """

    start: float
    steps: float
    progress: float
    goal: float


def curve(groups: Sequence[Group], global_size: float) -> PredictedCurve:
    """What a run predicts for other batch sizes."""
    scales = [group.noise_scale for group in groups]
    return predicted_curve(scales, global_size, [group.steps for group in groups])


def averages(groups: Sequence[Group], global_size: float) -> Averages:
    """Of groups that are resolved."""
    steps = math.fsum(group.steps for group in groups)
    return Averages(
        start=groups[0].noise_scale,
        steps=math.fsum(group.steps * group.noise_scale for group in groups) / steps,
        progress=curve(groups, global_size).b_crit,
        goal=groups[-1].noise_scale,
    )


class Bounded(NamedTuple):
    """A value with its 95 % interval; an end may be infinite."""

    value: float
    low: float
    high: float


def bounded_averages(groups: Sequence[Group], global_size: float) -> dict[str, Bounded]:
    """All averages by name."""
    source = random.Random(0)
    drawn = []
    for _ in range(DRAWS):
        again = [group.drawn(source) for group in groups]
        drawn.append(averages(again, global_size))
    found = {}
    columns = zip(
        Averages._fields, averages(groups, global_size), zip(*drawn, strict=True), strict=True
    )
    for name, value, others in columns:
        values = sorted(others)
        low, high = values[round(0.025 * DRAWS)], values[round(0.975 * DRAWS) - 1]
        found[name] = Bounded(value, low, high)
    return found
