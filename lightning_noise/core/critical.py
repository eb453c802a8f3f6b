"""The critical batch size, from the steps to a goal that were measured at many batch sizes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lightning_noise.core.hyperbola import Profile

LEAST_SIZES = 4
REACH = 4.0  # an interval bounded on both sides needs sizes from b_crit / REACH to b_crit * REACH
POOR_FIT = 0.1  # rms of ln S about the curve above which the shape, not the scatter, is in doubt
_BELOW_ONE = 1 - 1e-9  # so that rounding does not decide where the sizes reach just far enough


class CriticalBatchSize(NamedTuple):
    """The hyperbola S(B) = S_min (1 + B_crit/B) through measured steps S at batch sizes B (McCandlish et al. 2018, eq. 2.11).

    Attributes:
        b_crit: critical batch size E_min/S_min, in examples: there both steps and examples are twice their least values.
        low: lower end of its confidence interval; None: no lower bound, the sizes do not reach low enough.
        high: upper end; None: no upper bound, the sizes do not reach high enough.
        s_min: steps in the limit of large batches.
        e_min: examples in the limit of small batches.
        residual: root mean square of ln S about the curve, over batch sizes; 0.05 is about 5 %.
        warnings: what bears on the trust in these numbers, in words.
    """

    b_crit: float
    low: float | None
    high: float | None
    s_min: float
    e_min: float
    residual: float
    warnings: tuple[str, ...] = ()

    @classmethod
    def fit(cls, batch_sizes: Sequence[float], steps: Sequence[float], *, confidence: float = 0.95) -> "CriticalBatchSize":
        """Fits the curve by least squares in ln S.

        Steps at one batch size (seeds) are averaged in ln S, then every batch size counts alike: what spreads the sizes about
        the curve is mostly the search of their learning rates and the shape of the curve, and more seeds do not average that
        out. The interval is every b_crit with RSS <= RSS_min (1 + t²/(m − 2)) for m batch sizes, t at m − 2 degrees of freedom.
        An end is None

        - where a straight line fits as well: perfect scaling (S ∝ 1/B; no upper bound) or constant steps (no lower bound);
        - where the sizes do not reach 4·b_crit (no upper bound) or b_crit/4 (no lower bound): what lies beyond them would rest
          on the model alone.

        Args:
            batch_sizes: global batch sizes, in examples; repeat a size for each of its seeds.
            steps: optimizer steps to the goal, one for each of ``batch_sizes``. Leave out runs that did not reach it.
            confidence: of the interval, in (0, 1).

        Raises:
            ValueError: different lengths; a value that is not a finite positive number; ``confidence`` out of range; fewer than
                four different sizes, or no bend in the steps, both with the sizes to add.

        >>> sizes = [2**k for k in range(3, 17)]
        >>> found = CriticalBatchSize.fit(sizes, [1000 * (1 + 1000 / size) for size in sizes])
        >>> round(found.b_crit, 6), round(found.s_min, 6), round(found.e_min, 3), found.residual < 1e-12
        (1000.0, 1000.0, 1000000.0, True)
        """
        if not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}.")
        sizes, logs = _average_seeds(batch_sizes, steps)
        _refuse_few(sizes)
        profile, m = Profile(sizes, logs), len(sizes)
        best = profile.minimum()
        limit = profile.limit(best, confidence)
        flat, steep = profile.rss_of_constant_steps <= limit, profile.rss_of_perfect_scaling <= limit
        b_crit = math.exp(best)
        _refuse_no_bend(sizes, b_crit, flat=flat, steep=steep)
        low = None if flat or b_crit < sizes[0] * REACH * _BELOW_ONE else math.exp(profile.crossing(best, limit, -1))
        high = None if steep or sizes[-1] < b_crit * REACH * _BELOW_ONE else math.exp(profile.crossing(best, limit, +1))
        s_min = math.exp(profile.log_s_min(best))
        found = cls(b_crit, low, high, s_min, s_min * b_crit, math.sqrt(profile.rss(best) / m))
        return found._replace(warnings=tuple(_warnings(found, sizes, logs, flat=flat, steep=steep)))

    def steps(self, global_size: float) -> float:
        """Optimizer steps to the goal at this batch size, S_min (1 + B_crit/B).

        >>> CriticalBatchSize(1000, 800, 1300, s_min=500, e_min=500_000, residual=0.02).steps(250)
        2500.0
        """
        return self.s_min * (1 + self.b_crit / _positive("global_size", global_size))

    def examples(self, global_size: float) -> float:
        """Examples to the goal at this batch size, E_min (1 + B/B_crit).

        >>> CriticalBatchSize(1000, 800, 1300, s_min=500, e_min=500_000, residual=0.02).examples(250)
        625000.0
        """
        return self.e_min * (1 + _positive("global_size", global_size) / self.b_crit)

    def end_of_perfect_scaling(self, tolerance: float = 0.05) -> float:
        """Largest batch size that was still worth doubling to: S(B) <= (1 + tolerance) S(B/2)/2, in examples.

        Shallue et al. 2018 call scaling perfect while each doubling of the batch halves the steps, and judge its end by eye;
        the tolerance makes that a number, 2·tolerance/(1 − tolerance)·b_crit on this curve: b_crit/9.5 at 5 %. It looks at one
        doubling; :meth:`overhead_size` at the whole way from the smallest batches.

        Raises:
            ValueError: ``tolerance`` outside (0, 1).

        >>> round(CriticalBatchSize(950, 800, 1300, s_min=500, e_min=475_000, residual=0.02).end_of_perfect_scaling(), 6)
        100.0
        """
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {tolerance!r}.")
        return 2 * tolerance / (1 - tolerance) * self.b_crit

    def start_of_maximal_parallelism(self, tolerance: float = 0.05) -> float:
        """Batch size from which a doubling gains no more than the tolerance: S(B) <= (1 + tolerance) S(2B), in examples.

        The third regime of Shallue et al. 2018, (1 − tolerance)/(2·tolerance)·b_crit on this curve: 9.5·b_crit at 5 %, as far
        above b_crit as :meth:`end_of_perfect_scaling` lies below.

        Raises:
            ValueError: ``tolerance`` outside (0, 1).

        >>> round(CriticalBatchSize(1000, 800, 1300, s_min=500, e_min=5e5, residual=0.02).start_of_maximal_parallelism(), 6)
        9500.0
        """
        return self.b_crit**2 / self.end_of_perfect_scaling(tolerance)

    def overhead_size(self, overhead: float = 0.2) -> float:
        """Batch size at which the run costs ``overhead`` more than perfect scaling would, in examples.

        That is S(B) = (1 + overhead) E_min/B, or E(B) = (1 + overhead) E_min: overhead·b_crit on this curve. With 20 % it is
        the "critical batch size" of Zhang et al. 2024 (arXiv 2410.21676), a fifth of that of McCandlish et al. 2018, whose
        overhead is 100 %. The three numbers must not be compared as if they were one.

        Raises:
            ValueError: ``overhead`` is not a finite positive number.

        >>> CriticalBatchSize(950, 800, 1300, s_min=500, e_min=475_000, residual=0.02).overhead_size(0.2)
        190.0
        """
        return _positive("overhead", overhead) * self.b_crit


def _warnings(
    found: CriticalBatchSize,
    sizes: Sequence[float],
    logs: Sequence[float],
    *,
    flat: bool,
    steep: bool,
) -> Iterator[str]:
    if found.low is None:
        why = "constant steps fit as well" if flat else "the sizes do not reach down to b_crit/4"
        yield f"b_crit has no lower bound: {why}. {_add_below(sizes, found.b_crit)}"
    if found.high is None:
        why = "perfect scaling fits as well" if steep else "the sizes do not reach up to 4 b_crit"
        yield f"b_crit has no upper bound: {why}. {_add_above(sizes, found.b_crit)}"
    if found.residual > POOR_FIT:
        yield (
            f"the curve misses the steps by {100 * found.residual:.0f} % (rms), so the shape "
            f"itself is in doubt. {_farthest(found, sizes, logs)}"
        )


def _farthest(found: CriticalBatchSize, sizes: Sequence[float], logs: Sequence[float]) -> str:
    """Where a badly tuned rate is most likely, and what to do there."""
    misses = [log - math.log(found.steps(size)) for size, log in zip(sizes, logs, strict=True)]
    miss, size = max(zip(misses, sizes, strict=True), key=lambda pair: abs(pair[0]))
    side = "above" if miss > 0 else "below"
    return (
        f"Batch size {size:g} lies farthest from it ({100 * abs(math.expm1(miss)):.0f} % {side}): "
        "search the learning rate there with more trials and in a wider range, and run more seeds."
    )


def _positive(name: str, value: float) -> float:
    try:
        number = float(value) if not isinstance(value, (str, bool)) else math.nan
    except TypeError:
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}.")
    return number


def _average_seeds(batch_sizes: Sequence[float], steps: Sequence[float]) -> tuple[list[float], list[float]]:
    """The different batch sizes, ascending, and the mean of ln S at each."""
    if len(batch_sizes) != len(steps):
        raise ValueError(f"batch_sizes and steps must have one length, got {len(batch_sizes)} and {len(steps)}.")
    logs: dict[float, list[float]] = {}
    for size, count in zip(batch_sizes, steps, strict=True):
        logs.setdefault(_positive("batch_sizes", size), []).append(math.log(_positive("steps", count)))
    sizes = sorted(logs)
    return sizes, [math.fsum(logs[size]) / len(logs[size]) for size in sizes]


def _refuse_few(sizes: Sequence[float]) -> None:
    if len(sizes) >= LEAST_SIZES:
        return
    if not sizes:
        raise ValueError("batch_sizes must hold at least four different sizes, got none: measure at 8, 32, 128 and 512, say.")
    more = [*_below(sizes[0], sizes[0] / REACH), *_above(sizes[-1], sizes[-1] * REACH ** (LEAST_SIZES - len(sizes)))]
    raise ValueError(
        f"batch_sizes must hold at least four different sizes, got {len(sizes)} ({_listed(sizes)}). Add {_listed(more)}, say."
    )


def _refuse_no_bend(sizes: Sequence[float], b_crit: float, *, flat: bool, steep: bool) -> None:
    """Without a bend b_crit is no measurement: both straight lines fit, or the curve bends far from all sizes."""
    least, largest = sizes[0], sizes[-1]
    if flat and steep:
        more = [*_below(least, least / REACH), *_above(largest, largest * REACH)]
        raise ValueError(
            f"the steps at batch sizes {_listed(sizes)} show no bend: perfect scaling and constant steps fit as well as any "
            f"curve between. Add the sizes {_listed(more)}, and more seeds."
        )
    if b_crit > largest * REACH:
        raise ValueError(
            f"the steps at batch sizes {_listed(sizes)} scale perfectly, without a bend: b_crit lies far above {largest:g}. "
            f"{_add_above(sizes, largest * REACH)}"
        )
    if b_crit < least / REACH:
        raise ValueError(
            f"the steps at batch sizes {_listed(sizes)} do not fall, so there is no bend: b_crit lies far below {least:g}. "
            f"{_add_below(sizes, least / REACH)}"
        )


def _add_above(sizes: Sequence[float], b_crit: float) -> str:
    return f"Add the sizes {_listed(_above(sizes[-1], b_crit * REACH))}."


def _add_below(sizes: Sequence[float], b_crit: float) -> str:
    more = _below(sizes[0], b_crit / REACH)
    return f"Add the sizes {_listed(more)}." if more else "Smaller batches than these cannot be had."


def _above(size: float, target: float) -> list[float]:
    """Sizes a factor 2 apart (4 where it is far) from above ``size`` until ``target`` is reached, at least one."""
    factor = 2.0 if target <= 8 * size else 4.0
    more = [size * factor]
    while more[-1] < target * (1 - 1e-9):
        more.append(more[-1] * factor)
    return more


def _below(size: float, target: float) -> list[float]:
    """The same downwards, whole numbers, ascending; empty where ``size`` is 1."""
    factor = 2.0 if target >= size / 8 else 4.0
    more, least = list[float](), size
    while least > 1 and (not more or least > target * (1 + 1e-9)):
        least = max(1.0, math.floor(least / factor))
        more.insert(0, least)
    return more


def _listed(sizes: Sequence[float]) -> str:
    return ", ".join(f"{size:.12g}" for size in sizes)
