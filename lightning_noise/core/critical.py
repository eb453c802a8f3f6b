"""The critical batch size, from the steps to a goal that were measured at many batch sizes."""

import math
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from typing import NamedTuple

from lightning_noise.core import critical_advice as advice
from lightning_noise.core.critical_advice import BELOW_ONE, POOR_FIT, REACH, NoFitError, Straight
from lightning_noise.core.hyperbola import Profile

__all__ = ["CriticalBatchSize", "NoFitError"]


class CriticalBatchSize(NamedTuple):
    """The hyperbola S(B) = S_min (1 + B_crit/B) through measured steps S at batch sizes B.

    Attributes:
        b_crit: critical batch size E_min/S_min, in examples: there both steps and examples are
            twice their least values.
        low: lower end of its confidence interval; None: the sizes do not reach low enough.
        high: upper end of its confidence interval; None: the sizes do not reach high enough.
        s_min: steps in the limit of large batches.
        e_min: examples in the limit of small batches.
        residual: root mean square of ln S about the curve, over batch sizes; 0.05 is about 5 %.
        warnings: reasons to distrust these numbers, as text.
        sizes_to_run: for each of ``warnings``, the batch sizes at which runs would mend it.

    Source: McCandlish et al. 2018, eq. 2.11.
    """

    b_crit: float
    low: float | None
    high: float | None
    s_min: float
    e_min: float
    residual: float
    warnings: tuple[str, ...] = ()
    sizes_to_run: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def fit(
        cls,
        batch_sizes: Sequence[float],
        steps: Sequence[float],
        *,
        confidence: float = 0.95,
    ) -> "CriticalBatchSize":
        """Fits the curve by least squares in ln S.

        Steps at one batch size (seeds) are averaged in ln S, then all batch sizes have the same
        weight: their scatter about the curve comes mostly from the search of their learning rates
        and from the shape of the curve, which more seeds do not average out. The interval is every
        b_crit with RSS <= RSS_min (1 + t²/(m − 2)) for m batch sizes, t at m − 2 degrees of
        freedom. An end is None

        - where a straight line fits as well: perfect scaling (S ∝ 1/B; no upper bound) or constant
          steps (no lower bound);
        - where the sizes do not reach 4·b_crit (no upper bound) or b_crit/4 (no lower bound): what
          lies beyond them would rest on the model alone.

        Args:
            batch_sizes: global batch sizes, in examples; repeat a size for each of its seeds.
            steps: optimizer steps to the goal, one for each of ``batch_sizes``. Leave out runs
                that did not reach it.
            confidence: of the interval, in (0, 1).

        Raises:
            ValueError: different lengths; a value that is not a finite positive number;
                ``confidence`` out of range; fewer than four different sizes, or no bend in the
                steps, both with the sizes to add.

        >>> sizes = [2**k for k in range(3, 17)]
        >>> found = CriticalBatchSize.fit(sizes, [1000 * (1 + 1000 / size) for size in sizes])
        >>> round(found.b_crit, 6), round(found.s_min, 6), round(found.e_min, 3)
        (1000.0, 1000.0, 1000000.0)
        >>> found.residual < 1e-12
        True
        """
        if not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}.")
        sizes, logs = _average_seeds(batch_sizes, steps)
        advice.refuse_few(sizes)
        profile = Profile(sizes, logs)
        best = profile.minimum()
        limit = profile.limit(best, confidence)
        straight = Straight(
            flat=profile.rss_of_constant_steps <= limit,
            steep=profile.rss_of_perfect_scaling <= limit,
        )
        b_crit = math.exp(best)
        advice.refuse_no_bend(sizes, b_crit, straight)
        low = high = None
        if not straight.flat and b_crit >= sizes[0] * REACH * BELOW_ONE:
            low = math.exp(profile.crossing(best, limit, -1))
        if not straight.steep and sizes[-1] >= b_crit * REACH * BELOW_ONE:
            high = math.exp(profile.crossing(best, limit, +1))
        s_min = math.exp(profile.log_s_min(best))
        residual = math.sqrt(profile.rss(best) / len(sizes))
        found = cls(
            b_crit=b_crit,
            low=low,
            high=high,
            s_min=s_min,
            e_min=s_min * b_crit,
            residual=residual,
        )
        remedies = _remedies(found, sizes, logs, straight)
        return found._replace(
            warnings=tuple(remedy.text for remedy in remedies),
            sizes_to_run=tuple(remedy.sizes for remedy in remedies),
        )

    def steps(self, global_size: float) -> float:
        """Optimizer steps to the goal at this batch size, S_min (1 + B_crit/B).

        >>> CriticalBatchSize(1000, 800, 1300, s_min=500, e_min=500_000, residual=0.02).steps(250)
        2500.0
        """
        size = _positive("global_size", global_size)
        return self.s_min * (1 + self.b_crit / size)

    def examples(self, global_size: float) -> float:
        """Examples to the goal at this batch size, E_min (1 + B/B_crit).

        >>> found = CriticalBatchSize(1000, 800, 1300, s_min=500, e_min=5e5, residual=0.02)
        >>> found.examples(250)
        625000.0
        """
        size = _positive("global_size", global_size)
        return self.e_min * (1 + size / self.b_crit)

    def end_of_perfect_scaling(self, tolerance: float = 0.05) -> float:
        """Largest batch size whose last doubling halved the steps, within the tolerance.

        In examples: S(B) <= (1 + tolerance) S(B/2)/2.

        Shallue et al. 2018 call scaling perfect while each doubling of the batch size halves the
        steps, and judge its end by eye. The tolerance makes that a number, which on this curve is
        2·tolerance/(1 − tolerance)·b_crit: b_crit/9.5 at 5 %. It considers one doubling, while
        :meth:`overhead_size` considers all doublings from the smallest batches.

        Raises:
            ValueError: ``tolerance`` outside (0, 1).

        >>> found = CriticalBatchSize(950, 800, 1300, s_min=500, e_min=475_000, residual=0.02)
        >>> round(found.end_of_perfect_scaling(), 6)
        100.0
        """
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {tolerance!r}.")
        return 2 * tolerance / (1 - tolerance) * self.b_crit

    def start_of_maximal_parallelism(self, tolerance: float = 0.05) -> float:
        """Batch size from which a doubling gains no more than the tolerance.

        In examples: S(B) <= (1 + tolerance) S(2B). This is where the third regime of Shallue et
        al. 2018 begins, (1 − tolerance)/(2·tolerance)·b_crit on this curve: 9.5·b_crit at 5 %, as
        far above b_crit as :meth:`end_of_perfect_scaling` lies below.

        Raises:
            ValueError: ``tolerance`` outside (0, 1).

        >>> found = CriticalBatchSize(1000, 800, 1300, s_min=500, e_min=5e5, residual=0.02)
        >>> round(found.start_of_maximal_parallelism(), 6)
        9500.0
        """
        return self.b_crit**2 / self.end_of_perfect_scaling(tolerance)

    def overhead_size(self, overhead: float = 0.2) -> float:
        """Batch size at which a run costs ``overhead`` more than perfect scaling would.

        In examples: S(B) = (1 + overhead) E_min/B, or E(B) = (1 + overhead) E_min: overhead·b_crit
        on this curve. With 20 % it is the "critical batch size" of Zhang et al. 2024 (arXiv
        2410.21676), a fifth of that of McCandlish et al. 2018, whose overhead is 100 %. The two
        numbers must not be compared with each other.

        Raises:
            ValueError: ``overhead`` is not a finite positive number.

        >>> found = CriticalBatchSize(950, 800, 1300, s_min=500, e_min=475_000, residual=0.02)
        >>> found.overhead_size(0.2)
        190.0
        """
        return _positive("overhead", overhead) * self.b_crit


def _remedies(
    found: CriticalBatchSize,
    sizes: Sequence[float],
    logs: Sequence[float],
    straight: Straight,
) -> list[advice.Remedy]:
    remedies = []
    if found.low is None:
        remedies.append(advice.no_lower_bound(sizes, found.b_crit, straight))
    if found.high is None:
        remedies.append(advice.no_upper_bound(sizes, found.b_crit, straight))
    if found.residual > POOR_FIT:
        misses = []
        for size, log_steps in zip(sizes, logs, strict=True):
            misses.append(log_steps - math.log(found.steps(size)))
        remedies.append(advice.poor_fit(sizes, misses, found.residual))
    return remedies


def _positive(name: str, value: float) -> float:
    number = math.nan
    if not isinstance(value, (str, bool)):
        with suppress(TypeError):
            number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}.")
    return number


def _average_seeds(
    batch_sizes: Sequence[float],
    steps: Sequence[float],
) -> tuple[list[float], list[float]]:
    """The different batch sizes, ascending, and the mean of ln S at each."""
    if len(batch_sizes) != len(steps):
        lengths = f"{len(batch_sizes)} and {len(steps)}"
        raise ValueError(f"batch_sizes and steps must have one length, got {lengths}.")
    logs: dict[float, list[float]] = {}
    for given_size, given_steps in zip(batch_sizes, steps, strict=True):
        size = _positive("batch_sizes", given_size)
        log_steps = math.log(_positive("steps", given_steps))
        logs.setdefault(size, []).append(log_steps)
    sizes = sorted(logs)
    return sizes, [fmean(logs[size]) for size in sizes]
