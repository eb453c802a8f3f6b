"""Plain numbers behind the figures of steps and examples against the batch size."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_noise.core.critical import CriticalBatchSize, NoFitError
from lightning_noise.report import costs
from lightning_noise.report.band import bands
from lightning_noise.report.errors import TableError
from lightning_noise.report.means import Mean, means
from lightning_noise.report.runs import (
    Run,
    by_size,
    count_reached,
    runs_of,
    runs_that_count,
    steps_by_size,
)
from lightning_noise.report.table import Row, of_goal

POINTS = 129  # of a drawn curve


class Point(NamedTuple):
    """One run that reached the goal."""

    global_size: float
    steps: float
    seed: int | None


class Missed(NamedTuple):
    """How many runs at a batch size did not reach the goal, and of how many."""

    failed: int
    runs: int


class Regimes(NamedTuple):
    """Where the three regimes of Shallue et al. 2018 meet on the fitted curve.

    Both ends are in examples; ``tolerance`` is the one at which the regimes are distinguished.
    """

    end_of_perfect_scaling: float
    start_of_maximal_parallelism: float
    tolerance: float


class Curve(NamedTuple):
    """Steps to a goal against the batch size, and the fit through them.

    Attributes:
        goal: its name.
        points: the runs that count and reached the goal, see
            :func:`lightning_noise.report.runs.runs_that_count`.
        missed: the batch sizes at which some runs did not reach it.
        means: what the fit goes through, with the interval of each.
        fit: through the steps of :func:`lightning_noise.report.runs.steps_by_size`; None where it
            is refused.
        refusal: why there is no fit; empty where there is one.
        warnings: of the fit, with what their advice costs.
        regimes: of the fitted curve; None without a fit.
        sizes: batch sizes of the curve, evenly spaced in the logarithm; empty without a fit.
        steps: the fitted curve there.
        low: least of all curves that the runs do not exclude at ``confidence``, over every b_crit
            and every S_min: the lower end of the interval of the steps there.
        high: greatest of these curves.
        joint_low, joint_high: the same of all curves in the joint confidence region of (S_min,
            b_crit), which hold the entire curve at ``confidence``.
        perfect: steps if scaling were perfect, E_min/B.
        confidence: of the intervals.
    """

    goal: str
    points: tuple[Point, ...]
    missed: dict[float, Missed]
    means: tuple[Mean, ...]
    fit: CriticalBatchSize | None
    refusal: str
    warnings: tuple[str, ...] = ()
    regimes: Regimes | None = None
    sizes: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    joint_low: tuple[float, ...] = ()
    joint_high: tuple[float, ...] = ()
    perfect: tuple[float, ...] = ()
    confidence: float = 0.95


def steps_curve(
    rows: Iterable[Row],
    goal: str | None = None,
    *,
    confidence: float = 0.95,
    tolerance: float = 0.05,
    fit: CriticalBatchSize | None = None,
) -> Curve:
    """The curve of one goal.

    Args:
        rows: a table, see :mod:`lightning_noise.report.table`.
        goal: its name; None where the table has only one.
        confidence: of the fit's interval.
        tolerance: at which the regimes are distinguished, see
            :meth:`CriticalBatchSize.end_of_perfect_scaling`.
        fit: of these rows at this confidence, where it is known already.

    Raises:
        TableError: there is no such goal, or no run reached it.
    """
    runs = runs_of(of_goal(rows, goal))
    counted = runs_that_count(runs)
    name = counted[0].goal
    points = tuple(_points(counted))
    if not points:
        fix = "Use an easier goal or a larger budget"
        raise TableError(f"no run reached the goal {name!r}: nothing to show. {fix}.")
    missed = _missed(runs, counted)
    steps = steps_by_size(counted)
    if fit is None:
        try:
            fit = CriticalBatchSize.fit(
                list(steps),
                list(steps.values()),
                confidence=confidence,
            )
        except NoFitError as refusal:
            return Curve(
                goal=name,
                points=points,
                missed=missed,
                means=means(counted, confidence),
                fit=None,
                refusal=costs.refusal(refusal, runs),
            )
    start = points[0].global_size / math.sqrt(2)
    stop = points[-1].global_size * math.sqrt(2)
    grid = _spaced(start, stop)
    each, joint = bands(steps, grid, confidence)
    return Curve(
        goal=name,
        points=points,
        missed=missed,
        means=means(counted, confidence),
        fit=fit,
        refusal="",
        warnings=costs.fit_warnings(fit, runs),
        regimes=_regimes(fit, tolerance),
        sizes=grid,
        steps=tuple(map(fit.steps, grid)),
        low=each.low,
        high=each.high,
        joint_low=joint.low,
        joint_high=joint.high,
        perfect=tuple(fit.e_min / size for size in grid),
        confidence=confidence,
    )


def _points(runs: Iterable[Run]) -> Iterable[Point]:
    for run in runs:
        if run.reached and run.steps is not None:
            yield Point(run.global_size, run.steps, run.seed)


def _regimes(fit: CriticalBatchSize, tolerance: float) -> Regimes:
    end = fit.end_of_perfect_scaling(tolerance)
    start = fit.start_of_maximal_parallelism(tolerance)
    return Regimes(end, start, tolerance)


def _missed(
    runs: Sequence[Run],
    counted: Sequence[Run],
) -> dict[float, Missed]:
    """By batch size; of the search trials where there was no winner to rerun."""
    all_runs = by_size(runs)
    reruns = by_size(counted)
    missed = {}
    for size in sorted(all_runs):
        here = reruns.get(size, all_runs[size])
        failed = len(here) - count_reached(here)
        none_reached = failed == len(here)
        if failed and (size in reruns or none_reached):
            missed[size] = Missed(failed, len(here))
    return missed


def _spaced(start: float, stop: float) -> tuple[float, ...]:
    log_ratio = math.log(stop / start) / (POINTS - 1)
    sizes = []
    for i in range(POINTS):
        ratio = math.exp(i * log_ratio)
        sizes.append(start * ratio)
    return tuple(sizes)


class Frontier(NamedTuple):
    """Steps against examples of one goal, and the hyperbola (S/S_min − 1)(E/E_min − 1) = 1.

    Attributes:
        goal: its name.
        points: (steps, examples) of the runs.
        sizes: batch sizes of the points.
        fit: the critical batch size; None where it is refused.
        steps, examples: the hyperbola; empty without a fit.

    Source: McCandlish et al. 2018, eq. 2.11.
    """

    goal: str
    points: tuple[tuple[float, float], ...]
    sizes: tuple[float, ...]
    fit: CriticalBatchSize | None
    steps: tuple[float, ...] = ()
    examples: tuple[float, ...] = ()


def frontier(curve: Curve) -> Frontier:
    """The Pareto frontier of a goal; points and hyperbola as (steps, examples)."""
    points = []
    sizes = []
    for point in curve.points:
        examples = point.steps * point.global_size
        points.append((point.steps, examples))
        sizes.append(point.global_size)
    return Frontier(
        goal=curve.goal,
        points=tuple(points),
        sizes=tuple(sizes),
        fit=curve.fit,
        steps=curve.steps,
        examples=tuple(map(operator.mul, curve.steps, curve.sizes)),
    )
