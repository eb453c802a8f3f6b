"""Rows of ``precision``, and what follows from them: steps until a precision, and seconds added."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.harness.rounds import disturbed, median_of

GOAL = 0.2  # half of the interval's width, relative to the estimate
PLAIN, ACCUMULATED = "plain", "micro-batches"
MEASURED, AMONG_OTHERS = "measured", "measured among others"
FIRST, LATER = "calls after a measured step", "calls in later steps"


class Row(NamedTuple):
    """An interval after so many steps, or the time of a kind of step in a round.

    Args:
        part: "steps" or "seconds".
        round: number of the round, or of the series of batches.
        steps: measured so far.
        low: end of the 95 % interval of ``noise_scale``; None where the interval has no such end.
        high: the other end.
        kind: of the step that was timed.
        place: of the variant in the order of its round.
        seconds: of one such step on the wall's clock.
        cpu_seconds: the same on the processor's clock.
        load: of the machine before.
    """

    part: str
    model: str
    variant: str
    round: int
    steps: int = 0
    noise_scale: float | None = None
    low: float | None = None
    high: float | None = None
    kind: str = ""
    place: int = 0
    seconds: float = math.nan
    cpu_seconds: float = math.nan
    load: float = math.nan

    @property
    def half_width(self) -> float:
        """Half of the interval, relative to the estimate; infinite where an end is missing."""
        if self.noise_scale is None or self.low is None or self.high is None:
            return math.inf
        return (self.high - self.low) / 2 / self.noise_scale


# ---- steps --------------------------------------------------------------------------------------


class Reached(NamedTuple):
    """Measured steps until the goal.

    Args:
        extrapolated: whether it lies beyond the steps that were taken.
    """

    steps: float
    extrapolated: bool


def steps_until(goal: float, points: Sequence[tuple[float, float]]) -> Reached:
    """The first steps at which a half-width is ``goal``.

    Between two points the logarithms are interpolated. Where the goal lies beyond all points, or
    where the half-width before it was infinite, the half-width is taken to fall as 1/√steps; NaN
    where all of them are infinite.

    Args:
        goal: of the half-width.
        points: (steps, half-width), with increasing steps.

    >>> steps_until(0.2, [(16, 0.4), (32, 0.25), (64, 0.16)]).steps
    45.25483399593904
    >>> steps_until(0.2, [(16, 0.8), (32, 0.4)])
    Reached(steps=128.0, extrapolated=True)
    """
    before = (0.0, math.inf)
    for steps, width in points:
        if width <= goal:
            return Reached(_between(goal, before, (steps, width)), extrapolated=False)
        before = (steps, width)
    steps, width = before
    if width == math.inf:
        return Reached(math.nan, extrapolated=True)
    return Reached(steps * (width / goal) ** 2, extrapolated=True)


def _between(goal: float, before: tuple[float, float], after: tuple[float, float]) -> float:
    if before[1] == math.inf:
        return max(before[0], after[0] * (after[1] / goal) ** 2)
    share = math.log(before[1] / goal) / math.log(before[1] / after[1])
    return before[0] * (after[0] / before[0]) ** share


def half_width_after(steps: float, points: Sequence[tuple[float, float]]) -> float:
    """The half-width after so many steps, from the nearest point by 1/√steps."""
    finite = [point for point in points if point[1] < math.inf]
    if not finite:
        return math.inf
    near, width = min(finite, key=lambda point: abs(math.log(point[0] / steps)))
    return width * (near / steps) ** 0.5


Series = dict[int, list[tuple[float, float]]]


def points_of(rows: Sequence[Row], model: str, variant: str) -> Series:
    """(steps, half-width) of every series of batches."""
    found: Series = {}
    for row in rows:
        if (row.part, row.model, row.variant) == ("steps", model, variant):
            found.setdefault(row.round, []).append((row.steps, row.half_width))
    return found


def needed(rows: Sequence[Row], model: str, variant: str) -> dict[int, Reached]:
    """Measured steps until the goal in every series of batches."""
    series = points_of(rows, model, variant)
    return {number: steps_until(GOAL, points) for number, points in series.items()}


# ---- seconds ------------------------------------------------------------------------------------


class Added(NamedTuple):
    """What one round says of a variant, in seconds of one clock.

    Args:
        plain: a step on the whole batch, without a measurement.
        dividing: what micro-batches add to it.
        measured: what a measured step adds to one on the same micro-batches, where every step is
            measured.
        among_others: the same where the steps before were not measured.
        first: what the next step adds, which is not measured.
        later: what each following step adds.
    """

    plain: float
    dividing: float
    measured: float
    among_others: float
    first: float
    later: float

    def in_cycle(self, every: int, *, divided: bool = False) -> float:
        """Added by ``every`` steps, of which one is measured.

        Args:
            every: steps.
            divided: counts that micro-batches are there for the measurement alone.
        """
        total = self.measured
        if every > 1:
            total = self.among_others + self.first + (every - 2) * self.later
        if divided:
            total += every * self.dividing
        return total


def added(rows: Sequence[Row], model: str, variant: str, clock: str) -> dict[int, Added]:
    """By round; ``clock`` is "seconds" or "cpu_seconds"."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if (row.part, row.model, row.variant) == ("seconds", model, variant):
            found.setdefault(row.round, {})[row.kind] = getattr(row, clock)
    return {number: _added(times) for number, times in found.items()}


def _added(times: dict[str, float]) -> Added:
    plain = times[PLAIN]
    base = times.get(ACCUMULATED, plain)
    return Added(
        plain=plain,
        dividing=base - plain,
        measured=times[MEASURED] - base,
        among_others=times[AMONG_OTHERS] - base,
        first=times[FIRST],
        later=times[LATER],
    )


def undisturbed(rows: Sequence[Row], model: str, variant: str) -> dict[int, Added]:
    """By round on the wall's clock, without rounds in which another process took the core."""
    steps = (PLAIN, ACCUMULATED, MEASURED, AMONG_OTHERS)
    mine = [row for row in rows if (row.model, row.variant) == (model, variant)]
    left_out = disturbed([row for row in mine if row.kind in steps])
    by_round = added(rows, model, variant, "seconds")
    return {number: times for number, times in by_round.items() if number not in left_out}


def median_steps(rows: Sequence[Row], model: str, variant: str) -> float:
    """Measured steps until the goal, median over the series."""
    known = [reached.steps for reached in needed(rows, model, variant).values()]
    return median_of(known).median
