"""Which statistic predicts the critical batch size best, over tasks? Pure.

Every point is a task with its measured critical batch size and the values of some statistics. A
statistic is judged by the logarithm of value / B_crit: as it is, and with one constant factor that
is chosen on other tasks.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

DRAWS = 2000


class Point(NamedTuple):
    """A task.

    Args:
        group: tasks of one group are left out and drawn together.
        kind: of optimizer.
        b_crit: measured.
        values: of the statistics, by name, in the unit of ``b_crit``.
    """

    group: str
    kind: str
    b_crit: float
    values: Mapping[str, float]

    def error(self, name: str) -> float:
        """Natural logarithm of value / B_crit."""
        return math.log(self.values[name] / self.b_crit)


class Score(NamedTuple):
    """A root mean square of natural logarithms with its 95 % interval over tasks."""

    rms: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """exp(rms): by which the prediction is typically off."""
        return math.exp(self.rms)


def rms(errors: Sequence[float]) -> float:
    """Root mean square."""
    return math.sqrt(fmean(error * error for error in errors))


def best_of(points: Sequence[Point], names: Sequence[str]) -> tuple[str, float]:
    """The statistic with the least scatter about one factor, and the logarithm of that factor."""

    def scatter(name: str) -> float:
        errors = [point.error(name) for point in points]
        return rms([error - fmean(errors) for error in errors])

    best = min(names, key=scatter)
    return best, fmean(point.error(best) for point in points)


def left_out_errors(points: Sequence[Point], names: Sequence[str]) -> list[float]:
    """Errors of points for which statistic and factor were chosen on the other groups.

    With one name only the factor is chosen.
    """
    found = []
    for point in points:
        others = [other for other in points if other.group != point.group]
        name, shift = best_of(others, names)
        found.append(point.error(name) - shift)
    return found


def left_out_by_kind(points: Sequence[Point], name: str) -> list[float]:
    """Errors of a statistic times a factor that was chosen on other groups of the same kind.

    Where no other group has the kind the factor is that of all others.
    """
    found = []
    for point in points:
        others = [other for other in points if other.group != point.group]
        alike = [other for other in others if other.kind == point.kind]
        shift = fmean(other.error(name) for other in alike or others)
        found.append(point.error(name) - shift)
    return found


def left_out_constant(points: Sequence[Point]) -> list[float]:
    """Errors of the geometric mean of B_crit of the other groups: a guess without measuring."""
    found = []
    for point in points:
        others = [math.log(other.b_crit) for other in points if other.group != point.group]
        found.append(fmean(others) - math.log(point.b_crit))
    return found


def direct_errors(points: Sequence[Point], name: str) -> list[float]:
    """Errors of a statistic as it is."""
    return [point.error(name) for point in points]


def scored(
    points: Sequence[Point], errors_of: Callable[[Sequence[Point]], Sequence[float]]
) -> Score:
    """The root mean square of errors, with the interval of tasks that are drawn again.

    Errors are computed once, from all points; groups are drawn with replacement.
    """
    errors: dict[str, list[float]] = {}
    for point, error in zip(points, errors_of(points), strict=True):
        errors.setdefault(point.group, []).append(error)
    low, high = interval(list(errors.values()), rms)
    return Score(rms([error for part in errors.values() for error in part]), low, high)


def difference(
    points: Sequence[Point],
    first: Callable[[Sequence[Point]], Sequence[float]],
    second: Callable[[Sequence[Point]], Sequence[float]],
) -> Score:
    """rms of ``first`` minus rms of ``second`` on the same tasks; below 0: ``first`` is better."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for point, a, b in zip(points, first(points), second(points), strict=True):
        pairs.setdefault(point.group, []).append((a, b))

    def gap(drawn: Sequence[tuple[float, float]]) -> float:
        return rms([a for a, _ in drawn]) - rms([b for _, b in drawn])

    low, high = interval(list(pairs.values()), gap)
    return Score(gap([pair for part in pairs.values() for pair in part]), low, high)


def interval(
    groups: Sequence[Sequence[object]], statistic: Callable[[Sequence[object]], float]
) -> tuple[float, float]:
    """95 % of the values of a statistic over groups drawn with replacement."""
    source = random.Random(0)
    found = []
    for _ in range(DRAWS):
        drawn = source.choices(groups, k=len(groups))
        found.append(statistic([one for group in drawn for one in group]))
    found.sort()
    return found[round(0.025 * DRAWS)], found[round(0.975 * DRAWS) - 1]


def rank_correlation(points: Sequence[Point], name: str) -> float:
    """Spearman's, between a statistic and B_crit.

    >>> row = [Point(str(b), "SGD", b, {"x": b * b}) for b in (1.0, 3.0, 2.0)]
    >>> round(rank_correlation(row, "x"), 12)
    1.0
    """
    first = ranks([point.values[name] for point in points])
    second = ranks([point.b_crit for point in points])
    middle = (len(points) - 1) / 2
    above = math.fsum((a - middle) * (b - middle) for a, b in zip(first, second, strict=True))
    spread = math.fsum((a - middle) ** 2 for a in first) * math.fsum(
        (b - middle) ** 2 for b in second
    )
    return above / math.sqrt(spread)


def ranks(values: Sequence[float]) -> list[float]:
    """From 0; equal values share the mean of their ranks.

    >>> ranks([5.0, 1.0, 5.0])
    [1.5, 0.0, 1.5]
    """
    found = []
    for value in values:
        below = sum(other < value for other in values)
        equal = sum(other == value for other in values)
        found.append(below + (equal - 1) / 2)
    return found
