"""Plain numbers behind the figures of the learning rate."""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from lightning_noise.core.student_t import student_t_quantile
from lightning_noise.report.curves import Curve
from lightning_noise.report.runs import Run, by_size, runs_of, searches_of, size_of
from lightning_noise.report.table import Row, of_goal
from lightning_noise.report.terms import DIVERGED, INCOMPLETE, REACHED

PRUNED = "pruned"  # of a cell: ended before its budget because it could no longer win
RANK = {
    REACHED: 0,
    PRUNED: 1,
    INCOMPLETE: 2,
    DIVERGED: 3,
}
LONE_CELL = 1.25  # half-height, as a factor, of the cell of a batch size with one rate
POINTS = 65  # of a drawn rule
LEAST_WINNERS = 3  # inside the search space, for an exponent


class Cell(NamedTuple):
    """One search trial, with the rates that lie nearest to its own.

    Where several trials of a batch size have the same rate, it is the best of them.

    Attributes:
        global_size: its batch size.
        learning_rate: its rate.
        low, high: the cell: half-way, in the logarithm, to the next rates that were tried at this
            batch size.
        status: ``"reached"``, ``"pruned"`` (ended before its budget, as it could no longer win),
            ``"incomplete"`` (the budget ended first) or ``"diverged"``.
        excess: its steps relative to the best trial of the batch size; None unless it reached the
            goal.
        best: it is the winner of its batch size.
        boundary: it is a winner on the edge of the search space.
    """

    global_size: float
    learning_rate: float
    low: float
    high: float
    status: str
    excess: float | None
    best: bool
    boundary: bool


class RateMap(NamedTuple):
    """Learning rate × batch size for one goal: every search trial as a cell.

    The cells of a batch size leave no gap.
    """

    goal: str
    sizes: tuple[float, ...]
    cells: tuple[Cell, ...]


def rate_map(rows: Iterable[Row], goal: str | None = None) -> RateMap:
    """How the search trials of one goal ended. Other searched parameters are projected away.

    Args:
        rows: a table, see :mod:`lightning_noise.report.table`.
        goal: its name; None where the table has only one.

    Raises:
        ValueError: there is no such goal, or there is no search trial with a learning rate.
    """
    searches = searches_of(runs_of(of_goal(rows, goal)))
    runs = [run for run in searches if run.learning_rate is not None]
    if not runs:
        raise ValueError("rows hold no search trial with a learning rate, so there is no map.")
    runs_at = by_size(runs)
    sizes = tuple(sorted(runs_at))
    cells: list[Cell] = []
    for size in sizes:
        cells += _column(runs_at[size])
    return RateMap(
        goal=runs[0].goal,
        sizes=sizes,
        cells=tuple(cells),
    )


def _column(runs: Sequence[Run]) -> Iterator[Cell]:
    """The cells of one batch size, in ascending order of the rate."""
    quickest = min(run.quickness for run in runs)
    by_rate: dict[float, Run] = {}
    for run in sorted(runs, key=_from_best, reverse=True):
        if run.learning_rate is not None:
            by_rate[run.learning_rate] = run  # the best of a rate comes last, and stays
    rates = sorted(by_rate)
    borders = _borders(rates)
    for i, rate in enumerate(rates):
        run = by_rate[rate]
        excess = None
        if run.reached:
            excess = run.quickness / quickest
        yield Cell(
            global_size=run.global_size,
            learning_rate=rate,
            low=borders[i],
            high=borders[i + 1],
            status=_ending(run),
            excess=excess,
            best=run.best,
            boundary=run.best and run.boundary,
        )


def _borders(rates: Sequence[float]) -> list[float]:
    """The geometric means of neighbours, and as far beyond the first and the last rate."""
    if len(rates) == 1:
        return [rates[0] / LONE_CELL, rates[0] * LONE_CELL]
    inner = [math.sqrt(a * b) for a, b in pairwise(rates)]
    first = rates[0] / (inner[0] / rates[0])
    last = rates[-1] * (rates[-1] / inner[-1])
    return [first, *inner, last]


def _from_best(run: Run) -> tuple[bool, int, float]:
    """Ascending from the winner to what diverged."""
    return not run.best, RANK[_ending(run)], run.steps or 0.0


def _ending(run: Run) -> str:
    if run.cut_short:
        return PRUNED
    return run.status


class BestRate(NamedTuple):
    """The rate of the winner of one batch size.

    On the edge of the search space (``boundary``) the best rate may lie beyond.
    """

    global_size: float
    learning_rate: float
    boundary: bool


class RateRule(NamedTuple):
    """How the best rate follows the batch size.

    Attributes:
        goal: its name.
        points: the winners.
        alpha: exponent of eps(B) = eps_star / (1 + b_star/B)^alpha where ``b_star`` is a number, of
            eps ∝ B^alpha where it is None; None where fewer than three batch sizes have a winner
            inside the search space.
        low, high: the interval of alpha, at ``confidence``.
        eps_star: rate for large batches where ``b_star`` is a number; the rate at B = 1 otherwise.
        b_star: b_crit of the fit of the steps, or None.
        sizes, rates: the curve.
        linear, root: the linear and the square-root rule through its first point.
        confidence: of the interval.
    """

    goal: str
    points: tuple[BestRate, ...]
    alpha: float | None = None
    low: float | None = None
    high: float | None = None
    eps_star: float | None = None
    b_star: float | None = None
    sizes: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    linear: tuple[float, ...] = ()
    root: tuple[float, ...] = ()
    confidence: float = 0.95


def rate_rule(rows: Iterable[Row], curve: Curve, *, confidence: float = 0.95) -> RateRule:
    """Fits the exponent of the learning-rate rule to the winners of one goal.

    eps(B) = eps_star / (1 + b_star/B)^alpha (McCandlish et al. 2018, eq. 2.6 with alpha = 1) has
    three unknowns, more than the best rates of a study determine. So b_star is taken from the
    steps, where the same curve bends; what is left is a straight line in ln(1 + b_star/B). Without
    a fit of the steps it is the slope of ln eps against ln B: the exponent below the bend. Winners
    on the edge of the search space are left out.

    Args:
        rows: a table, see :mod:`lightning_noise.report.table`.
        curve: the steps of the goal.
        confidence: of the interval of alpha.

    Raises:
        ValueError: no trial with a learning rate is marked as ``best``.
    """
    points = tuple(_winners(runs_of(of_goal(rows, curve.goal))))
    if not points:
        best = f"no trial with a learning rate is marked as best for {curve.goal!r}"
        raise ValueError(f"{best}, so there is no best rate to draw.")
    inside = [point for point in points if not point.boundary]
    sizes_inside = {point.global_size for point in inside}
    if len(sizes_inside) < LEAST_WINNERS:
        return RateRule(curve.goal, points)
    b_star = None
    if curve.fit is not None:
        b_star = curve.fit.b_crit
    line = _line_through(inside, b_star)
    quantile = student_t_quantile(0.5 + confidence / 2, len(inside) - 2)
    reach = quantile * line.error
    least = points[0].global_size / math.sqrt(2)
    largest = points[-1].global_size * math.sqrt(2)
    sizes = _spaced(least, largest)
    rates, linear, root = [], [], []
    for size in sizes:
        log_rate = line.level + line.slope * _coordinate(size, b_star)
        rates.append(math.exp(log_rate))
        first = rates[0]
        linear.append(first * size / sizes[0])
        root.append(first * math.sqrt(size / sizes[0]))
    return RateRule(
        goal=curve.goal,
        points=points,
        alpha=line.slope,
        low=line.slope - reach,
        high=line.slope + reach,
        eps_star=math.exp(line.level),
        b_star=b_star,
        sizes=sizes,
        rates=tuple(rates),
        linear=tuple(linear),
        root=tuple(root),
        confidence=confidence,
    )


def _winners(runs: Iterable[Run]) -> Iterator[BestRate]:
    for run in sorted(runs, key=size_of):
        if run.best and run.learning_rate is not None:
            yield BestRate(run.global_size, run.learning_rate, run.boundary)


def _coordinate(size: float, b_star: float | None) -> float:
    """What ln eps is a straight line in."""
    if b_star is None:
        return math.log(size)
    return -math.log1p(b_star / size)


def _spaced(least: float, largest: float) -> tuple[float, ...]:
    sizes = []
    for i in range(POINTS):
        share = i / (POINTS - 1)
        sizes.append(least * (largest / least) ** share)
    return tuple(sizes)


class _Line(NamedTuple):
    """A straight line by least squares: slope, its standard error, and the value at 0."""

    slope: float
    error: float
    level: float


def _line_through(points: Sequence[BestRate], b_star: float | None) -> _Line:
    n = len(points)
    x = [_coordinate(point.global_size, b_star) for point in points]
    y = [math.log(point.learning_rate) for point in points]
    mean_x = math.fsum(x) / n
    mean_y = math.fsum(y) / n
    dx = [value - mean_x for value in x]
    dy = [value - mean_y for value in y]
    sxx = _sum_of_squares(dx)
    slope = math.fsum(map(operator.mul, dx, dy)) / sxx
    misses = [b - slope * a for a, b in zip(dx, dy, strict=True)]
    variance = _sum_of_squares(misses) / (n - 2)
    return _Line(
        slope=slope,
        error=math.sqrt(variance / sxx),
        level=mean_y - slope * mean_x,
    )


def _sum_of_squares(values: Iterable[float]) -> float:
    return math.fsum([value**2 for value in values])
