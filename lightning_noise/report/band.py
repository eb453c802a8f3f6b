"""The band about a fitted curve: the interval of the steps at every batch size."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_noise.core.hyperbola import Profile

CURVES = 65  # whose envelope is the band


class Band(NamedTuple):
    """Lower and upper end at each batch size of a grid."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def band(
    steps: Mapping[float, float],
    grid: Sequence[float],
    confidence: float,
) -> Band:
    """The envelope of all curves that the runs do not exclude: RSS(b_crit, S_min) <= limit.

    RSS grows from that of the best S_min by m ln²(S_min / best S_min) for m batch sizes.
    """
    sizes = list(steps)
    logs = list(map(math.log, steps.values()))
    profile = Profile(sizes, logs)
    best = profile.minimum()
    limit = profile.limit(best, confidence)
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
