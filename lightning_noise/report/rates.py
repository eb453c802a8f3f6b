"""Plain numbers behind the figures of the learning rate."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from lightning_noise.core.student_t import student_t_quantile
from lightning_noise.report.curves import Curve
from lightning_noise.report.table import Row, of_goal

PRUNED = "pruned"  # of a cell: ended before its budget because it could no longer win
RANK = {"reached": 0, PRUNED: 1, "incomplete": 2, "diverged": 3}
LONE_CELL = 1.25  # half-height, as a factor, of the cell of a batch size with one rate


class Cell(NamedTuple):
    """One search trial (the best, where several of a batch size have the same rate), with the rates that lie nearest to it.

    Attributes:
        global_size: its batch size.
        learning_rate: its rate.
        low, high: the cell: half-way, in the logarithm, to the next rates that were tried at this batch size.
        status: ``"reached"``, ``"pruned"`` (ended before its budget, as it could no longer win),
            ``"incomplete"`` (the budget ended first) or ``"diverged"``.
        excess: its steps relative to the best trial of the batch size; None unless it reached the goal.
        best: it is the winner of its batch size.
        boundary: a winner on the edge of the search space.
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
    """Learning rate × batch size, for one goal: every search trial as a cell. The cells of a batch size leave no gap."""

    goal: str
    sizes: tuple[float, ...]
    cells: tuple[Cell, ...]


def rate_map(rows: Iterable[Row], goal: str | None = None) -> RateMap:
    """How the search trials of one goal ended. Other searched parameters are projected away.

    Args:
        rows: trials, see :mod:`lightning_noise.report.table`.
        goal: its name; None where the table has only one.

    Raises:
        ValueError: no such goal; no search trial with a learning rate.
    """
    rows = [row for row in of_goal(rows, goal) if row["phase"] == "search" and row["learning_rate"] is not None]
    if not rows:
        raise ValueError("rows hold no search trial with a learning rate, so there is no map of it to draw.")
    sizes = tuple(sorted({row["global_size"] for row in rows}))
    cells = [cell for size in sizes for cell in _column([row for row in rows if row["global_size"] == size])]
    return RateMap(rows[0]["goal"], sizes, tuple(cells))


def _column(rows: Sequence[Row]) -> Iterator[Cell]:
    """The cells of one batch size, in ascending order of the rate."""
    quickest = min((row["steps"] for row in rows if row["status"] == "reached"), default=None)
    ranked = sorted(rows, key=_from_best, reverse=True)
    by_rate = {row["learning_rate"]: row for row in ranked}  # the best of a rate comes last, and stays
    rates = sorted(by_rate)
    borders = [math.sqrt(a * b) for a, b in pairwise(rates)]
    margin = borders[0] / rates[0] if borders else LONE_CELL
    borders = [rates[0] / margin, *borders]
    borders.append(rates[-1] * (rates[-1] / borders[-1] if len(rates) > 1 else LONE_CELL))
    for rate, low, high in zip(rates, borders[:-1], borders[1:], strict=True):
        row = by_rate[rate]
        excess = row["steps"] / quickest if quickest is not None and row["status"] == "reached" else None
        best = bool(row.get("best"))
        boundary = best and bool(row.get("boundary"))
        yield Cell(row["global_size"], rate, low, high, _ending(row), excess, best, boundary)


def _from_best(row: Row) -> tuple[bool, int, float]:
    """Ascending from the winner to what diverged."""
    return not row.get("best"), RANK[_ending(row)], row["steps"] or 0.0


def _ending(row: Row) -> str:
    """A run that was ended early had not its whole budget, so it is not known to fail."""
    if row["status"] == "incomplete" and row.get("pruned"):
        return PRUNED
    return str(row["status"])


class BestRate(NamedTuple):
    """The rate of the winner of one batch size; on the edge of the search space the best rate may lie beyond."""

    global_size: float
    learning_rate: float
    boundary: bool


class RateRule(NamedTuple):
    """How the best rate follows the batch size.

    Attributes:
        goal: its name.
        points: the winners.
        alpha: exponent of eps(B) = eps_star / (1 + b_star/B)^alpha where ``b_star`` is a number, of eps ∝ B^alpha where it is
            None; None where fewer than three batch sizes have a winner inside the search space.
        low, high: its interval, at ``confidence``.
        eps_star: rate for large batches where ``b_star`` is a number; the rate at B = 1 otherwise.
        b_star: b_crit of the fit of the steps, or None.
        sizes, rates, linear, root: the curve, and the linear and square-root rules through its first point.
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

    eps(B) = eps_star / (1 + b_star/B)^alpha (McCandlish et al. 2018, eq. 2.6 with alpha = 1) has three unknowns, more than the
    best rates of a study can tell. So b_star is taken from the steps, where the same curve bends; what is left is a straight
    line in ln(1 + b_star/B). Without a fit of the steps it is the slope of ln eps against ln B: the exponent below the bend.
    Winners on the edge of the search space are left out.

    Args:
        rows: trials, see :mod:`lightning_noise.report.table`.
        curve: the steps of the goal.
        confidence: of the interval of alpha.

    Raises:
        ValueError: no trial with a learning rate is marked as ``best``.
    """
    winners = [row for row in of_goal(rows, curve.goal) if row.get("best") and row["learning_rate"] is not None]
    if not winners:
        raise ValueError(
            f"no trial with a learning rate is marked as best for {curve.goal!r}, so there is no best rate to draw."
        )
    winners.sort(key=lambda row: row["global_size"])
    points = tuple(BestRate(row["global_size"], row["learning_rate"], bool(row.get("boundary"))) for row in winners)
    inside = [point for point in points if not point.boundary]
    if len({point.global_size for point in inside}) < 3:
        return RateRule(curve.goal, points)
    b_star = curve.fit.b_crit if curve.fit else None

    def coordinate(size: float) -> float:
        return math.log(size) if b_star is None else -math.log1p(b_star / size)

    x = [coordinate(point.global_size) for point in inside]
    alpha, error, level = _line(x, [math.log(point.learning_rate) for point in inside])
    reach = student_t_quantile(0.5 + confidence / 2, len(inside) - 2) * error
    least, largest = points[0].global_size / math.sqrt(2), points[-1].global_size * math.sqrt(2)
    sizes = tuple(least * (largest / least) ** (i / 64) for i in range(65))
    rates = tuple(math.exp(level + alpha * coordinate(size)) for size in sizes)
    linear = tuple(rates[0] * size / sizes[0] for size in sizes)
    root = tuple(rates[0] * math.sqrt(size / sizes[0]) for size in sizes)
    eps_star = math.exp(level)
    return RateRule(
        curve.goal, points, alpha, alpha - reach, alpha + reach, eps_star, b_star, sizes, rates, linear, root, confidence
    )


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Least squares: slope, its standard error, and the value at 0."""
    n = len(x)
    mx, my = math.fsum(x) / n, math.fsum(y) / n
    sxx = math.fsum((a - mx) ** 2 for a in x)
    slope = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sxx
    rss = math.fsum((b - my - slope * (a - mx)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(rss / (n - 2) / sxx), my - slope * mx
