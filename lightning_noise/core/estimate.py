"""From averages to a noise scale with a confidence interval.

The quotient is taken last, and only where it can be determined.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.moments import Moments
from lightning_noise.core.student_t import student_t_quantile

# Five equal steps, rounded. From fewer, a variance of the steps means nothing: "not measured yet".
LEAST_N_EFF = 5.0 - 1e-9
LARGE_SHARE = 1 / 3  # of the data set: a noise scale above it is "of the order of the data set"


class NoiseEstimate(NamedTuple):
    """A noise scale tr(MΣ)/(GᵀMG) in a metric M, with its interval.

    With M = 1 it is B_simple = tr(Σ)/|G|², with the Hessian B_noise. What cannot be determined is
    ``None``.

    Args:
        noise_scale: ``noise / signal`` in examples, ``None`` until it is resolved.
        low: lower end of the interval in examples. A valid one-sided bound on its own, resolved or
            not.
        high: upper end; ``None`` means no upper bound ("not resolved, at least ``low``").
        signal: average unbiased GᵀMG (may be negative while it is not resolved); NaN while
            ``steps`` is 0.
        noise: average unbiased tr(MΣ); NaN while ``steps`` is 0.
        resolved: whether the interval is bounded on both sides.
        steps: optimizer steps measured so far; steps that could not be used do not count.
        n_eff: effective number of steps in the average.
    """

    noise_scale: float | None
    low: float | None
    high: float | None
    signal: float
    noise: float
    resolved: bool
    steps: int
    n_eff: float


class Ratio(NamedTuple):
    """Fieller's interval for rho = |G|²/tr(Σ), the reciprocal of the noise scale, in 1/examples."""

    rho: float
    low: float
    high: float


def ratio_interval(average: RunningAverage, confidence: float = 0.95) -> Ratio | None:
    """Interval for the reciprocal noise scale from sandwich variances and Student's t.

    ``None`` where it is not measured yet. The reciprocal is used because its denominator, the
    trace, is nearly always well resolved: then every unbounded interval of the noise scale is
    simply an interval of rho that reaches zero. Method of Fieller (1954).
    """
    if average.n_eff < LEAST_N_EFF:
        return None
    trace, grad_sq = average.means()
    spread = average.covariance()
    t2 = student_t_quantile(0.5 + confidence / 2, average.nu) ** 2
    a = trace * trace - t2 * spread.noise
    b = trace * grad_sq - t2 * spread.cross
    c = grad_sq * grad_sq - t2 * spread.signal
    if a <= 0 or trace <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    ends = ((b - root) / a, (b + root) / a)
    if not all(math.isfinite(end) for end in ends):  # squares of huge gradients overflow
        return None
    return Ratio(grad_sq / trace, *ends)


def estimate_from(
    average: RunningAverage,
    *,
    confidence: float = 0.95,
    data_size: float | None = None,
) -> NoiseEstimate:
    """The estimate that one running average supports.

    Args:
        average: the running average.
        confidence: of the two-sided interval.
        data_size: number of examples N of a finite data set that has been trained on for a full
            epoch or more. Repeated examples bias rho upwards, by at most about 1/N: the lower end
            then becomes ``1/(rho_high + 1/N)``, and N where ``rho_high <= 0``.
    """
    noise, signal = average.means()
    ratio = ratio_interval(average, confidence)
    low = high = noise_scale = None
    if ratio is not None:
        reach = max(ratio.high, 0.0)
        if data_size:
            reach += 1 / data_size
        low = _reciprocal(reach)
        high = _reciprocal(ratio.low)
    resolved = high is not None and low is not None
    if resolved:
        noise_scale = noise / signal
    return NoiseEstimate(
        noise_scale=noise_scale,
        low=low,
        high=high,
        signal=signal,
        noise=noise,
        resolved=resolved,
        steps=average.steps,
        n_eff=average.n_eff,
    )


def _reciprocal(rho: float) -> float | None:
    """An end of the interval of the noise scale; ``None`` where it is unbounded."""
    if rho <= 0:
        return None
    return 1 / rho


def repeats_dominate(estimate: NoiseEstimate, data_size: float) -> bool:
    """Whether a noise scale over repeated examples says nothing about new data.

    The gradient over the entire data set is then nearly zero: the noise scale is of the order of
    the data set, or has no upper end at all.

    >>> small = NoiseEstimate(100.0, 80.0, 125.0, 1.0, 100.0, True, 400, 180.0)
    >>> large = NoiseEstimate(900.0, 800.0, 1000.0, 1.0, 900.0, True, 400, 180.0)
    >>> repeats_dominate(small, data_size=2000), repeats_dominate(large, data_size=2000)
    (False, True)
    """
    if not estimate.resolved or estimate.low is None:
        return True
    return estimate.low > data_size * LARGE_SHARE


def steps_to_resolve(average: RunningAverage) -> float | None:
    """About how many steps like these resolve ``|G|²`` from zero: ``N (2·se/|G|²)²``.

    A forecast from the value seen so far, hence only an order of magnitude. ``None`` while that
    value is not positive.
    """
    _, grad_sq = average.means()
    if average.n_eff < LEAST_N_EFF or grad_sq <= 0:
        return None
    spread = average.covariance()
    return average.n_eff * 4 * spread.signal / grad_sq**2


def estimate_noise_scale(
    moments: Iterable[Moments],
    *,
    decay: float | None = None,
    confidence: float = 0.95,
) -> NoiseEstimate:
    """B_simple and its interval from the moments of many optimizer steps.

    Steps that are not finite or that had a single group are skipped. A step has the weight
    ``1/c_big``, its effective batch size.

    Args:
        moments: one record per optimizer step, oldest first.
        decay: exponential decay per step, ``None`` for the plain weighted mean. The effective
            window is (1 + decay)/(1 − decay).
        confidence: of the two-sided interval.

    Raises:
        ValueError: ``decay`` or ``confidence`` out of range.

    Source: McCandlish et al. 2018, appendix A (arXiv 1812.06162), with general weights and
    Fieller's interval.

    >>> steps = [Moments(q, 4.5, 1.0, 0.5) for q in (5.0, 5.5, 6.0, 5.2, 5.8, 5.4)]
    >>> e = estimate_noise_scale(steps)
    >>> round(e.noise_scale, 4), round(e.low, 4), round(e.high, 4), e.steps
    (0.5592, 0.3041, 0.8779, 6)
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must lie in [0.5, 1), got {confidence!r}.")
    if decay is not None and not isinstance(decay, (int, float)):
        raise TypeError(f"decay must be None or a number in (0, 1], got {decay!r}.")
    if decay is None:
        decay = 1.0
    average = RunningAverage(decay)
    for record in moments:
        if not isinstance(record, Moments):
            rule = "Moments(q_small, q_big, c_small, c_big), one per optimizer step"
            raise TypeError(f"moments must hold {rule}, got {record!r}.")
        if record.is_finite and record.has_groups:
            average.update(record)
    return estimate_from(average, confidence=confidence)
