"""Statistics of runs with several seeds, with jackknife intervals over the seeds."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.harness.tables import MISSING
from lightning_noise.core.student_t import student_t_quantile

Statistic = Callable[[Collection[int]], float]


class Bounded(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def exp(self) -> "Bounded":
        """Of a number whose logarithm this is."""
        return Bounded(*(math.exp(end) for end in self))


NOTHING = Bounded(math.nan, math.nan, math.nan)


def jackknife(statistic: Statistic, seeds: Collection[int]) -> Bounded:
    """A statistic of all seeds; its interval from leaving out one seed after the other.

    NaN where it is not defined for all seeds, or without one of them.
    """
    seeds = sorted(seeds)
    if len(seeds) < 2:
        return NOTHING
    value = statistic(seeds)
    left_out = []
    for seed in seeds:
        left_out.append(statistic([other for other in seeds if other != seed]))
    deviations = np.array(left_out) - np.mean(left_out)
    n = len(seeds)
    error = math.sqrt((n - 1) / n * float(deviations @ deviations))
    half = student_t_quantile(0.975, n - 1) * error
    return Bounded(value, value - half, value + half)


def slopes(columns: Sequence[Sequence[float]], y: Sequence[float]) -> list[float]:
    """Least squares of y on the columns and a constant; NaN where they do not determine it."""
    design = np.column_stack([*columns, np.ones(len(y))])
    if len(y) < design.shape[1] or not np.isfinite(design).all() or not np.isfinite(y).all():
        return [math.nan] * len(columns)
    solution, _, rank, _ = np.linalg.lstsq(design, np.asarray(y, dtype=float), rcond=None)
    if rank < design.shape[1]:
        return [math.nan] * len(columns)
    return [float(one) for one in solution[:-1]]


def cell(found: Bounded, form: str = ".2f") -> str:
    """A number with its interval; a dash where it is not defined."""
    if math.isnan(found.value):
        return MISSING
    if math.isnan(found.low):
        return f"{found.value:{form}}"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
