"""How long optimizer steps take at each global size, and what follows for a size not yet tried."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

KEPT = 64  # durations of a size: the latest, enough for quartiles within a few percent
LEAST_STEPS = 5  # durations from which quartiles are taken


class StepTime(NamedTuple):
    """Quartiles of the duration of an optimizer step, in seconds.

    Quartiles and not the mean, so that a pause of the machine does not count.
    """

    steps: int
    lower: float
    median: float
    upper: float

    @property
    def standard_error(self) -> float:
        """Of the median, from the distance of the quartiles (exact for Gaussian durations)."""
        return 0.93 * (self.upper - self.lower) / math.sqrt(self.steps)


class Line(NamedTuple):
    """A step of B examples takes ``fixed + per_example · B`` seconds.

    >>> Line(64.0, 1.0).at(160)
    224.0
    """

    fixed: float
    per_example: float

    def at(self, global_size: float) -> float:
        """Seconds of a step."""
        return self.fixed + self.per_example * global_size


class StepTimes(NamedTuple):
    """The latest durations of steps, by global size.

    >>> times = StepTimes().adding(16, [1.0, 1.2, 1.1, 9.0, 1.1])
    >>> times.at(16)
    StepTime(steps=5, lower=1.1, median=1.1, upper=1.2)
    """

    durations: Mapping[float, tuple[float, ...]] = {}

    def adding(self, global_size: float, seconds: Iterable[float]) -> "StepTimes":
        """With further durations of steps at a size; of each size the latest are kept."""
        new = tuple(seconds)
        if not new:
            return self
        kept = (*self.durations.get(global_size, ()), *new)[-KEPT:]
        return StepTimes({**self.durations, global_size: kept})

    def scaled(self, unit: float) -> "StepTimes":
        """With sizes in a unit of which ``unit`` make one of the old."""
        return StepTimes({size * unit: found for size, found in self.durations.items()})

    def divided(self, by: float) -> "StepTimes":
        """With durations that are shorter by a factor."""
        durations = {}
        for size, found in self.durations.items():
            durations[size] = tuple(seconds / by for seconds in found)
        return StepTimes(durations)

    def at(self, global_size: float) -> StepTime | None:
        """The quartiles at a size; ``None`` while too few steps have been timed."""
        found = self.durations.get(global_size, ())
        if len(found) < LEAST_STEPS:
            return None
        lower, median, upper = statistics.quantiles(found, n=4, method="inclusive")
        return StepTime(len(found), lower, median, upper)

    @property
    def sizes(self) -> list[float]:
        """Sizes that have quartiles, smallest first."""
        return sorted(size for size in self.durations if self.at(size) is not None)

    def medians(self) -> dict[float, float]:
        """Seconds of a step by size, where enough steps were timed.

        >>> StepTimes().adding(16, [1.0, 1.2, 1.1, 9.0, 1.1]).adding(32, [2.0]).medians()
        {16: 1.1}
        """
        found = {size: self.at(size) for size in self.sizes}
        return {size: time.median for size, time in found.items() if time is not None}

    def elasticity(self, global_size: float) -> float | None:
        """η = d ln t/d ln B at a size: the share of a step's time that grows with the batch.

        From the next smaller size that was timed, by the straight line through both: with
        ``t = a + b·B`` it is ``b·B/t(B)`` exactly. ``None`` where it cannot be determined. A step
        that gets shorter as the batch grows is noise of the clock and counts as 0.

        >>> times = StepTimes().adding(80, [144.0] * 5).adding(160, [224.0] * 5)
        >>> round(times.elasticity(160), 4), round(160 / 224, 4)
        (0.7143, 0.7143)
        """
        now = self.at(global_size)
        smaller = [size for size in self.sizes if size < global_size]
        if now is None or not smaller:
            return None
        before = self.at(smaller[-1])
        if before is None or now.median <= 0:
            return None
        rise = 1 - before.median / now.median
        return max(0.0, rise / (1 - smaller[-1] / global_size))

    def line(self) -> Line | None:
        """The line ``a + b·B`` nearest to the medians, by relative deviations.

        ``None`` where fewer than two sizes were timed.

        >>> times = StepTimes().adding(16, [80.0] * 5).adding(32, [96.0] * 5)
        >>> [round(part, 9) for part in times.adding(64, [128.0] * 5).line()]
        [64.0, 1.0]
        """
        sizes = self.sizes
        medians = [self.at(size) for size in sizes]
        seconds = [found.median for found in medians if found is not None]
        if len(sizes) < 2 or min(seconds) <= 0:
            return None
        return _nearest_line(sizes, seconds)


def _nearest_line(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Least squares of ``(a + b·B)/t − 1``, where neither a nor b may be negative."""
    ones = [1 / t for t in seconds]
    slopes = [size / t for size, t in zip(sizes, seconds, strict=True)]
    aa = _dot(ones, ones)
    ab = _dot(ones, slopes)
    bb = _dot(slopes, slopes)
    a, b = math.fsum(ones), math.fsum(slopes)
    determinant = aa * bb - ab * ab
    fixed = (a * bb - b * ab) / determinant
    per_example = (b * aa - a * ab) / determinant
    if per_example < 0:
        return Line(a / aa, 0.0)
    if fixed < 0:
        return Line(0.0, b / bb)
    return Line(fixed, per_example)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(left, right, strict=True))
