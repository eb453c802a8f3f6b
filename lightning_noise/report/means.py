"""The steps at every batch size that a fit goes through, with their intervals."""

import math
from collections.abc import Iterable, Sequence
from statistics import stdev
from typing import NamedTuple

from lightning_noise.core.student_t import student_t_quantile
from lightning_noise.report.runs import Run, by_size, steps_by_size


class Mean(NamedTuple):
    """Steps at a batch size: the geometric mean of its runs.

    Where some runs did not reach the goal it is the median, see
    :func:`lightning_noise.report.runs.steps_by_size`. ``low`` and ``high`` are the interval of the
    geometric mean (Student's t in ln S); None with a single run, and where it is the median.
    """

    global_size: float
    steps: float
    low: float | None
    high: float | None


def means(runs: Iterable[Run], confidence: float) -> tuple[Mean, ...]:
    """One for each batch size that has steps, ascending."""
    runs_at = by_size(runs)
    found = []
    for size, steps in steps_by_size(run for here in runs_at.values() for run in here).items():
        low, high = _interval(steps, runs_at[size], confidence)
        found.append(Mean(size, steps, low, high))
    return tuple(found)


def _interval(
    steps: float,
    runs: Sequence[Run],
    confidence: float,
) -> tuple[float | None, float | None]:
    n = len(runs)
    if n < 2 or not all(run.reached for run in runs):
        return None, None
    scatter = stdev([math.log(run.quickness) for run in runs])
    quantile = student_t_quantile(0.5 + confidence / 2, n - 1)
    factor = math.exp(quantile * scatter / math.sqrt(n))
    return steps / factor, steps * factor
