"""The bands about a fitted curve: the interval of the steps at every batch size, and of all."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_noise.core.hyperbola import Profile

CURVES = 65  # whose envelope is the band


class Band(NamedTuple):
    """Lower and upper end at each batch size of a grid."""

    low: tuple[float, ...]
    high: tuple[float, ...]


class Bands(NamedTuple):
    """Two envelopes of curves that the runs do not exclude.

    Attributes:
        each: holds the steps at any one batch size with the confidence: the limit on RSS is that
            of one number.
        joint: holds the entire curve with the confidence: the curves are those of the joint
            confidence region of (S_min, b_crit).
    """

    each: Band
    joint: Band


def bands(
    steps: Mapping[float, float],
    grid: Sequence[float],
    confidence: float,
) -> Bands:
    """The envelopes of all curves with RSS(b_crit, S_min) <= limit, for two limits."""
    sizes = list(steps)
    logs = list(map(math.log, steps.values()))
    profile = Profile(sizes, logs)
    best = profile.minimum()
    least = profile.rss(best)
    each = _envelope(profile, sizes, grid, best, profile.limit(best, confidence))
    joint = _envelope(profile, sizes, grid, best, joint_limit(least, len(sizes), confidence))
    return Bands(each, joint)


def joint_limit(least: float, sizes: int, confidence: float) -> float:
    """The RSS up to which a pair (S_min, b_crit) is not excluded.

    RSS_min (1 + 2 F/nu), with F at 2 and nu = m − 2 degrees of freedom for m batch sizes. F with 2
    degrees of freedom has a closed form, which leaves RSS_min (1 − confidence)^(−2/nu).
    """
    nu = sizes - 2
    return least * math.pow(1 - confidence, -2 / nu)


def _envelope(
    profile: Profile,
    sizes: Sequence[float],
    grid: Sequence[float],
    best: float,
    limit: float,
) -> Band:
    """Of all curves with RSS(b_crit, S_min) <= limit.

    RSS grows from that of the best S_min by m ln²(S_min / best S_min) for m batch sizes.
    """
    lowest = [math.inf] * len(grid)
    highest = [0.0] * len(grid)
    for u in [best, *_grid_of_b_crit(profile, sizes, best, limit)]:
        b_crit = math.exp(u)
        s_min = math.exp(profile.log_s_min(u))
        room = max(0.0, limit - profile.rss(u))
        factor = math.exp(math.sqrt(room / len(sizes)))
        for i, size in enumerate(grid):
            value = s_min * (1 + b_crit / size)
            lowest[i] = min(lowest[i], value / factor)
            highest[i] = max(highest[i], value * factor)
    return Band(tuple(lowest), tuple(highest))


def _grid_of_b_crit(
    profile: Profile,
    sizes: Sequence[float],
    best: float,
    limit: float,
) -> list[float]:
    """Values of ln b_crit through the interval.

    Where the runs do not exclude a straight line, the values extend to a sixty-fourth of the
    smallest size or to 64 times the largest: there the curve is straight over the drawn range.
    """
    low = math.log(min(sizes) / 64)
    high = math.log(max(sizes) * 64)
    if profile.rss_of_constant_steps > limit:
        low = profile.crossing(best, limit, -1)
    if profile.rss_of_perfect_scaling > limit:
        high = profile.crossing(best, limit, +1)
    width = high - low
    values = []
    for i in range(CURVES):
        values.append(low + width * i / (CURVES - 1))
    return values
