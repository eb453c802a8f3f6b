"""Plain numbers behind the figures of steps and examples against the batch size."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.core.hyperbola import Profile
from lightning_noise.report.table import Row, of_goal

POINTS = 129  # of a drawn curve
CURVES = 65  # whose envelope is the band


class Point(NamedTuple):
    """One run that reached the goal."""

    global_size: float
    steps: float
    seed: int


class Regimes(NamedTuple):
    """Where the three regimes of Shallue et al. 2018 meet on the fitted curve, in examples, and at what tolerance."""

    end_of_perfect_scaling: float
    start_of_maximal_parallelism: float
    tolerance: float


class Curve(NamedTuple):
    """Steps to a goal against the batch size, and what the fit says.

    Attributes:
        goal: its name.
        points: the runs that count and reached the goal, see :func:`runs_that_count`.
        missed: batch sizes at which some did not, with how many did not and of how many.
        fit: through the steps of :func:`steps_by_size`; None where it is refused, and ``refusal`` is the reason then.
        sizes: batch sizes of the curve, evenly spaced in the logarithm; empty without a fit.
        steps: the fitted curve there.
        low, high: least and greatest of all curves that the runs do not exclude, at ``confidence``:
            of every b_crit with every S_min, so that it is also the interval of the steps there.
        perfect: steps if scaling were perfect, E_min/B.
    """

    goal: str
    points: tuple[Point, ...]
    missed: dict[float, tuple[int, int]]
    fit: CriticalBatchSize | None
    refusal: str
    regimes: Regimes | None = None
    sizes: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    perfect: tuple[float, ...] = ()
    confidence: float = 0.95


def steps_curve(rows: Iterable[Row], goal: str | None = None, *, confidence: float = 0.95, tolerance: float = 0.05) -> Curve:
    """The curve of one goal.

    Args:
        rows: trials, see :mod:`lightning_noise.report.table`.
        goal: its name; None where the table has only one.
        confidence: of the fit's interval.
        tolerance: at which the regimes are told apart, see :meth:`CriticalBatchSize.end_of_perfect_scaling`.

    Raises:
        ValueError: no such goal; or no run reached it.
    """
    rows = of_goal(rows, goal)
    runs = runs_that_count(rows)
    name = runs[0]["goal"]
    points = tuple(Point(row["global_size"], row["steps"], row["seed"]) for row in runs if row["status"] == "reached")
    if not points:
        raise ValueError(f"no run reached the goal {name!r}: nothing to show. Use an easier goal or a larger budget.")
    steps = steps_by_size(runs)
    try:
        fit = CriticalBatchSize.fit(list(steps), list(steps.values()), confidence=confidence)
    except ValueError as refusal:
        return Curve(name, points, _missed(rows, runs), None, str(refusal))
    regimes = Regimes(fit.end_of_perfect_scaling(tolerance), fit.start_of_maximal_parallelism(tolerance), tolerance)
    grid = _spaced(points[0].global_size / math.sqrt(2), points[-1].global_size * math.sqrt(2))
    low, high = _band(steps, grid, confidence)
    middle, perfect = tuple(map(fit.steps, grid)), tuple(fit.e_min / size for size in grid)
    return Curve(name, points, _missed(rows, runs), fit, "", regimes, grid, middle, low, high, perfect, confidence)


def _missed(rows: Sequence[Row], runs: Sequence[Row]) -> dict[float, tuple[int, int]]:
    """Batch size → (runs that did not reach the goal, runs); of the search trials where no winner was there to rerun."""
    missed = {}
    for size in sorted({row["global_size"] for row in rows}):
        here = [row for row in runs if row["global_size"] == size] or [row for row in rows if row["global_size"] == size]
        failed = sum(row["status"] != "reached" for row in here)
        rerun = any(row in runs for row in here)
        if failed and (rerun or failed == len(here)):
            missed[size] = (failed, len(here))
    return missed


def runs_that_count(rows: Iterable[Row]) -> list[Row]:
    """The reruns of the winners, by batch size; in a table without any rerun the best search trial of each size.

    The best of many search trials is lucky, which reruns with fresh seeds are not.
    """
    rows = sorted(rows, key=lambda row: row["global_size"])
    reruns = [row for row in rows if row["phase"] == "rerun"]
    if reruns:
        return reruns
    best: dict[float, Row] = {}
    for row in rows:
        if row["global_size"] not in best or _quickness(row) < _quickness(best[row["global_size"]]):
            best[row["global_size"]] = row
    return list(best.values())


def _quickness(row: Row) -> float:
    return float(row["steps"]) if row["status"] == "reached" else math.inf


def steps_by_size(runs: Iterable[Row]) -> dict[float, float]:
    """Steps at each batch size: the geometric mean of its runs.

    Where more than half reached the goal, but not all, it is their median with the others counted as never: the mean of those
    that did would be too low. The other sizes are absent.
    """
    found: dict[float, list[float]] = {}
    for row in runs:
        found.setdefault(row["global_size"], []).append(_quickness(row))
    steps = {}
    for size in sorted(found):
        values = found[size]
        if all(value < math.inf for value in values):
            steps[size] = math.exp(math.fsum(map(math.log, values)) / len(values))
        elif 2 * values.count(math.inf) < len(values):
            steps[size] = median(values)
    return steps


def _spaced(start: float, stop: float) -> tuple[float, ...]:
    ratio = math.log(stop / start) / (POINTS - 1)
    return tuple(start * math.exp(i * ratio) for i in range(POINTS))


def _band(steps: dict[float, float], grid: Sequence[float], confidence: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The envelope of all curves that the runs do not exclude: RSS(b_crit, S_min) <= limit.

    RSS grows from that of the best S_min by m ln²(S_min / best S_min) for m batch sizes. Where the
    runs do not exclude a straight line, b_crit goes on to a sixty-fourth of the smallest size or to
    64 times the largest: there the curve is straight over all that is drawn.
    """
    sizes = list(steps)
    profile = Profile(sizes, list(map(math.log, steps.values())))
    best = profile.minimum()
    limit = profile.limit(best, confidence)
    low, high = math.log(min(sizes) / 64), math.log(max(sizes) * 64)
    if profile.rss_of_constant_steps > limit:
        low = profile.crossing(best, limit, -1)
    if profile.rss_of_perfect_scaling > limit:
        high = profile.crossing(best, limit, +1)
    below, above = [], []
    for u in [best, *(low + (high - low) * i / (CURVES - 1) for i in range(CURVES))]:
        s_min, room = math.exp(profile.log_s_min(u)), max(0.0, limit - profile.rss(u))
        factor = math.exp(math.sqrt(room / len(sizes)))
        curve = [s_min * (1 + math.exp(u) / size) for size in grid]
        below.append([value / factor for value in curve])
        above.append([value * factor for value in curve])
    lowest, highest = zip(*below, strict=True), zip(*above, strict=True)
    return tuple(map(min, lowest)), tuple(map(max, highest))


class Frontier(NamedTuple):
    """Steps against examples of one goal: the points, and the hyperbola (S/S_min − 1)(E/E_min − 1) = 1 (MC18, eq. 2.11)."""

    goal: str
    points: tuple[tuple[float, float], ...]
    sizes: tuple[float, ...]
    fit: CriticalBatchSize | None
    steps: tuple[float, ...] = ()
    examples: tuple[float, ...] = ()


def frontier(curve: Curve) -> Frontier:
    """The Pareto frontier of a goal; points and hyperbola as (steps, examples)."""
    points = tuple((point.steps, point.steps * point.global_size) for point in curve.points)
    examples = tuple(steps * size for steps, size in zip(curve.steps, curve.sizes, strict=True))
    return Frontier(curve.goal, points, tuple(point.global_size for point in curve.points), curve.fit, curve.steps, examples)
