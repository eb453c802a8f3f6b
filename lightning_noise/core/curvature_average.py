"""The large-batch model from quadratic forms gᵀHg.

It gives B_noise, the best learning rate and the best decrease of the loss. In a metric M the two
lines of :class:`~lightning_noise.core.moments.Moments` hold with gᵀMg in the place of |g|². Here M
is the Hessian H (or the Gauss-Newton matrix), measured on examples that none of the gradients has
seen: with the same examples E gᵀHg has a further term from their covariance, which no number of
probes averages away.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import NoiseEstimate, ratio_interval
from lightning_noise.core.moments import Moments
from lightning_noise.core.student_t import student_t_quantile
from lightning_noise.core.windows import SHORT_DECAYS, Windows


def contrasts(groups: int, count: int) -> list[list[float]]:
    """Up to ``count`` orthogonal rows of coefficients over ``groups`` groups, each with sum 0.

    They are a discrete cosine basis. Σ s_i g_i over independent mean gradients g_i of b_i examples
    has no part of the true gradient in it, and E (Σ s_i g_i)ᵀM(Σ s_i g_i) = tr(MΣ) Σ s_i²/b_i.

    >>> [[round(s, 3) for s in row] for row in contrasts(3, 5)]
    [[0.866, 0.0, -0.866], [0.5, -1.0, 0.5]]
    """
    most = min(groups - 1, count)
    rows = []
    for k in range(1, most + 1):
        row = []
        for i in range(groups):
            angle = math.pi * (i + 0.5) * k / groups
            row.append(math.cos(angle))
        rows.append(row)
    return rows


def moments_from_forms(
    mean_form: float,
    c_mean: float,
    contrast_forms: Sequence[float],
    c_contrasts: Sequence[float],
) -> Moments:
    """Moments in a metric M from ḡᵀMḡ and from contrasts between groups.

    Args:
        mean_form: ḡᵀMḡ, whose expectation is GᵀMG + ``c_mean`` tr(MΣ).
        c_mean: Σ w_i²/b_i, 1/examples.
        contrast_forms: uᵀMu of contrasts u = Σ s_i g_i.
        c_contrasts: Σ s_i²/b_i of each, so that E uᵀMu = that times tr(MΣ).

    With H = diag(1, 4), G = (1, 1), Σ = diag(2, 3), and forms equal to their expectations:

    >>> m = moments_from_forms(5 + 14 / 8, 1 / 8, [14 / 2], [1 / 2])
    >>> round(m.signal, 12), round(m.noise, 12), round(m.noise / m.signal, 12)
    (5.0, 14.0, 2.8)
    """
    traces = [form / c for form, c in zip(contrast_forms, c_contrasts, strict=True)]
    trace = math.fsum(traces) / len(traces)
    return Moments(
        q_small=mean_form + c_mean * trace,
        q_big=mean_form,
        c_small=2 * c_mean,
        c_big=c_mean,
    )


class CurvatureProbe(NamedTuple):
    """What one probe of the curvature measures; additive over ranks, field by field.

    Args:
        moments: in the metric H.
        euclidean: of the same gradients, for |G|².
        indefinite: 1 where ḡᵀHḡ or a contrast met a curvature <= 0, else 0 (a rank adds its share).
    """

    moments: Moments
    euclidean: Moments
    indefinite: float

    @property
    def is_usable(self) -> bool:
        """Whether every number is finite and there were two groups."""
        if not self.moments.is_finite or not self.euclidean.is_finite:
            return False
        return self.moments.has_groups and self.euclidean.has_groups


class Bounded(NamedTuple):
    """A value with its interval, in the unit of the quantity."""

    value: float
    low: float
    high: float


def eps_max(average: RunningAverage, confidence: float = 0.95) -> Bounded | None:
    """Best learning rate of plain SGD with the true gradient, |G|²/(GᵀHG).

    ``None`` where |G|² or GᵀHG cannot be distinguished from zero, or where the curvature along the
    gradient is negative: it is not defined there.

    Args:
        average: its ``x`` is GᵀHG, its ``y`` is |G|².
        confidence: of the interval.

    Source: McCandlish et al. 2018, eq. 2.6.
    """
    ratio = ratio_interval(average, confidence)
    if ratio is None or ratio.low <= 0:
        return None
    return Bounded(
        value=ratio.rho,
        low=ratio.low,
        high=ratio.high,
    )


def dl_max(average: RunningAverage, confidence: float = 0.95) -> Bounded | None:
    """Best decrease of the loss in one such step, |G|⁴/(2 GᵀHG).

    The interval is that of the delta method, in its logarithm. Arguments and ``None`` are as in
    :func:`eps_max`.

    Source: McCandlish et al. 2018, eq. 2.7.
    """
    if eps_max(average, confidence) is None:
        return None
    curvature, grad_sq = average.means()
    spread = average.covariance()
    variance = (
        4 * spread.signal / grad_sq**2
        + spread.noise / curvature**2
        - 4 * spread.cross / (grad_sq * curvature)
    )
    quantile = student_t_quantile(0.5 + confidence / 2, average.nu)
    width = math.exp(quantile * math.sqrt(max(0.0, variance)))
    value = grad_sq**2 / (2 * curvature)
    return Bounded(
        value=value,
        low=value / width,
        high=value * width,
    )


def relative_error(average: RunningAverage) -> float | None:
    """Standard error of the noise scale relative to itself (delta method).

    ``None`` where it cannot be determined.

    >>> average = RunningAverage(1.0)
    >>> for q in (5.0, 5.5, 6.0, 5.2, 5.8, 5.4):
    ...     average.update(Moments(q, 4.5, 1.0, 0.5))
    >>> round(relative_error(average), 3)
    0.197
    """
    trace, grad_sq = average.means()
    if average.n_eff < 2 or trace <= 0 or grad_sq <= 0:
        return None
    spread = average.covariance()
    of_trace = spread.noise / trace**2
    of_grad_sq = spread.signal / grad_sq**2
    both = 2 * spread.cross / (trace * grad_sq)
    variance = of_trace + of_grad_sq - both
    return math.sqrt(max(0.0, variance))


def gradient_rules_error(average: RunningAverage) -> bool:
    """Whether GᵀMG is less precise than tr(MΣ): larger probes then help more than further ones."""
    if average.n_eff < 2:  # hardly a probe was finite
        return True
    trace, grad_sq = average.means()
    if grad_sq <= 0 or trace <= 0:
        return True
    spread = average.covariance()
    return spread.signal / grad_sq**2 > spread.noise / trace**2


class CurvatureAverage:
    """Running averages of curvature probes: B_noise, eps_max and dl_max, each with an interval.

    Args:
        decay: exponential decay per probe; 1 for the plain weighted mean, as at frozen weights.
            With any other, one of three windows is reported, as in
            :class:`~lightning_noise.core.windows.Windows`.
    """

    def __init__(self, decay: float) -> None:
        short: tuple[float, ...] = SHORT_DECAYS
        if decay == 1:
            short = ()
        self._windows = Windows(decay, short=short)
        self._model = Windows(decay, short=short)
        self.probes = 0
        self._indefinite = 0.0

    def update(self, probe: CurvatureProbe) -> None:
        """Adds one probe that ``is_usable``."""
        self._windows.update(probe.moments)
        curvature = probe.moments.signal
        grad_sq = probe.euclidean.signal
        weight = 1 / probe.moments.c_big
        for window in self._model.averages:
            window.add(curvature, grad_sq, weight)
        self.probes += 1
        self._indefinite += probe.indefinite

    @property
    def average(self) -> RunningAverage:
        """The average of tr(HΣ) and GᵀHG over the window that is reported."""
        return self._windows.current()

    def estimate(self, confidence: float = 0.95, data_size: float | None = None) -> NoiseEstimate:
        """B_noise = tr(HΣ)/(GᵀHG) as ``noise_scale``, GᵀHG as ``signal``, tr(HΣ) as ``noise``.

        Where the curvature along the gradient, or over its noise, is not resolved from zero or is
        negative, B_noise is not defined: ``noise_scale`` and ``high`` are ``None``, and the
        components stay.
        """
        return self._windows.estimate(confidence)

    def eps_max(self, confidence: float = 0.95) -> Bounded | None:
        """See :func:`eps_max`."""
        return eps_max(self._model.current(), confidence)

    def dl_max(self, confidence: float = 0.95) -> Bounded | None:
        """See :func:`dl_max`."""
        return dl_max(self._model.current(), confidence)

    @property
    def indefinite(self) -> float | None:
        """Share of all probes that met a direction of curvature <= 0; ``None`` before the first."""
        if not self.probes:
            return None
        return self._indefinite / self.probes

    def state_dict(self) -> dict[str, Any]:
        """Plain Python values, exact."""
        return {
            "windows": self._windows.state_dict(),
            "model": self._model.state_dict(),
            "probes": self.probes,
            "indefinite": self._indefinite,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self._windows.load_state_dict(state["windows"])
        self._model.load_state_dict(state["model"])
        self.probes = state["probes"]
        self._indefinite = state["indefinite"]
