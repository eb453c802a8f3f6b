"""How branches of one checkpoint at different batch sizes compare: differences and the bracket.

Pure: it reads what the branches ended at, whatever trained them.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import NamedTuple

from lightning_noise.core.student_t import student_t_quantile

SHARE = 0.1  # of what the reference gains: the tolerance where none is given


class Mean(NamedTuple):
    """A mean over seeds with its standard error and the interval of Student's t."""

    value: float
    error: float
    low: float
    high: float


class Difference(NamedTuple):
    """How much worse the branches at one batch size end than the reference, paired over seeds.

    Attributes:
        global_size: examples in one optimizer step.
        value: mean of the metric at the end.
        worse: mean of the differences from the reference of the same seed, positive where this
            size is worse; infinite where a branch diverged.
        error: standard error of ``worse``; None where a branch diverged.
        low, high: interval of ``worse``.
        seeds: number of branches.
        diverged: how many of them ended at a value that is not finite.
    """

    global_size: int
    value: float
    worse: float
    error: float | None
    low: float
    high: float
    seeds: int
    diverged: int


class Bracket(NamedTuple):
    """Where the critical batch size lies, in examples.

    Attributes:
        critical: where the mean difference crosses the tolerance, interpolated in ln B between two
            batch sizes; None where it does not, or where the larger of the two diverged.
        low: the largest batch size below ``high`` whose interval lies within the tolerance. The
            reference, whose difference is 0, always does.
        high: the smallest batch size whose interval lies above the tolerance; None: there is none.
    """

    critical: float | None
    low: float
    high: float | None


def mean_of(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Mean of at least two values that are independent of each other.

    >>> found = mean_of([1.0, 2.0, 3.0])
    >>> found.value, round(found.error, 4), round(found.low, 4), round(found.high, 4)
    (2.0, 0.5774, -0.4841, 4.4841)
    """
    value = fmean(values)
    error = stdev(values) / math.sqrt(len(values))
    reach = student_t_quantile(0.5 + confidence / 2, len(values) - 1) * error
    return Mean(value, error, value - reach, value + reach)


def differences(
    ends: Mapping[int, Sequence[float]],
    *,
    sign: int = 1,
    confidence: float = 0.95,
) -> tuple[Difference, ...]:
    """The difference of every batch size from the smallest one, in ascending order.

    Args:
        ends: batch size → value of the metric at the end, for the same seeds in the same order.
        sign: 1 where smaller values are better, −1 where larger ones are.
        confidence: of each interval by itself.

    >>> found = differences({8: (1.0, 2.0), 16: (1.5, 2.7)})
    >>> round(found[1].worse, 4), round(found[1].error, 4)
    (0.6, 0.1)
    """
    sizes = sorted(ends)
    reference = ends[sizes[0]]
    found = []
    for size in sizes:
        diverged = sum(not math.isfinite(value) for value in ends[size])
        if diverged:
            found.append(_diverged(size, ends[size], diverged))
            continue
        pairs = zip(ends[size], reference, strict=True)
        worse = mean_of([sign * (end - other) for end, other in pairs], confidence)
        found.append(
            Difference(
                global_size=size,
                value=fmean(ends[size]),
                worse=worse.value,
                error=worse.error,
                low=worse.low,
                high=worse.high,
                seeds=len(ends[size]),
                diverged=0,
            )
        )
    return tuple(found)


def _diverged(global_size: int, ends: Sequence[float], diverged: int) -> Difference:
    """One branch that diverged is enough: nobody trains at a batch size where a run may fail."""
    return Difference(
        global_size=global_size,
        value=math.nan,
        worse=math.inf,
        error=None,
        low=math.inf,
        high=math.inf,
        seeds=len(ends),
        diverged=diverged,
    )


def find_bracket(found: Sequence[Difference], tolerance: float) -> Bracket:
    """The critical batch size of differences in ascending order of the batch size.

    >>> near = Difference(16, 1.01, 0.01, 0.005, -0.01, 0.03, 3, 0)
    >>> reference = near._replace(global_size=8, worse=0.0, low=0.0, high=0.0)
    >>> far = near._replace(global_size=32, worse=0.21, low=0.18, high=0.24)
    >>> found = find_bracket([reference, near, far], tolerance=0.11)
    >>> found.low, found.high, round(found.critical, 3)  # half of the way from 16 to 32 in ln B
    (16, 32, 22.627)
    """
    high = None
    for size in found:
        if size.low > tolerance:
            high = size.global_size
            break
    low = found[0].global_size
    for size in found:
        if high is not None and size.global_size >= high:
            break
        if size.high <= tolerance:
            low = size.global_size
    return Bracket(_crossing(found, tolerance, low), low, high)


def _crossing(found: Sequence[Difference], tolerance: float, low: float) -> float | None:
    """The first crossing at or above ``low``, so that it lies in the bracket.

    Differences grow like a power of B or faster, so ln(difference) is interpolated, but for a first
    difference that is not resolved from zero, whose logarithm would be mostly noise.
    """
    for before, after in pairwise(found):
        if before.global_size < low or after.worse <= tolerance:
            continue
        if math.isinf(after.worse):
            return None
        share = (tolerance - before.worse) / (after.worse - before.worse)
        if before.low > 0:
            share = math.log(tolerance / before.worse) / math.log(after.worse / before.worse)
        ratio = after.global_size / before.global_size
        return float(before.global_size * ratio**share)
    return None


def not_monotone(found: Sequence[Difference], tolerance: float) -> tuple[int, int] | None:
    """Two batch sizes of which the smaller is too large and the larger is not; None: none."""
    too_large = None
    for size in found:
        if too_large is None and size.low > tolerance:
            too_large = size.global_size
        elif too_large is not None and size.high <= tolerance:
            return too_large, size.global_size
    return None


def default_tolerance(gain: Mean) -> float | None:
    """A tenth of what the reference gains over its branch; None where no gain is resolved.

    >>> default_tolerance(Mean(0.5, 0.01, 0.46, 0.54)), default_tolerance(Mean(0.1, 0.2, -0.8, 1))
    (0.05, None)
    """
    if gain.low <= 0:
        return None
    return SHARE * gain.value
