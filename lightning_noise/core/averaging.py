"""Running weighted averages of the unbiased trace and |G|².

They keep the second moments that their uncertainty needs.
"""

import math
from typing import Any, NamedTuple

from lightning_noise.core.moments import Moments

# of the weights w, w², w⁴ (W, V, U) and of products with x, the trace, and y, |G|²
SUMS = ("W", "X", "Y", "V", "VX", "VY", "VXX", "VXY", "VYY", "U")


class Spread(NamedTuple):
    """Sandwich (co)variances of the averages of trace and grad_sq."""

    noise: float
    signal: float
    cross: float


class RunningAverage:
    """One exponentially decaying window over optimizer steps.

    With ``decay=1`` it is the plain weighted mean. A step has the weight ``w = 1/c_big``, its
    effective batch size, which is nearly efficient when the batch size changes. Sums of w decay by
    d per step, sums of w² by d², of w⁴ by d⁴. The errors of successive steps are martingale
    differences, so there is no autocorrelation term.

    >>> average = RunningAverage(decay=0.998)
    >>> for m in (Moments(40.46, 22.5, 1.0, 0.5), Moments(28.62, 18.81, 1.0, 0.5)):
    ...     average.update(m)
    >>> [round(value, 8) for value in average.means()]
    [27.76184184, 6.77223223]
    """

    __slots__ = ("_peak", "_sums", "decay", "steps")

    def __init__(self, decay: float) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], got {decay!r}.")
        self.decay = decay
        self.steps = 0
        self._sums = dict.fromkeys(SUMS, 0.0)
        self._peak = 0.0  # the largest single contribution to VXX still in the window

    def update(self, moments: Moments, age: float = 1.0) -> None:
        """Adds one step.

        ``age`` is the exponent of the decay: 1 when it counts steps, n/n_ref when it counts
        examples.
        """
        self.add(moments.noise, moments.signal, 1 / moments.c_big, age)

    def add(self, x: float, y: float, w: float, age: float = 1.0) -> None:
        """Adds any pair of numbers that are to be averaged jointly, with weight w.

        ``x`` takes the place of the trace, ``y`` that of |G|².
        """
        d = max(min(self.decay, 0.9), self.decay**age)
        d2 = d * d
        w2 = w * w
        s = self._sums
        s["W"] = d * s["W"] + w
        s["X"] = d * s["X"] + w * x
        s["Y"] = d * s["Y"] + w * y
        s["V"] = d2 * s["V"] + w2
        s["VX"] = d2 * s["VX"] + w2 * x
        s["VY"] = d2 * s["VY"] + w2 * y
        s["VXX"] = d2 * s["VXX"] + w2 * x * x
        s["VXY"] = d2 * s["VXY"] + w2 * x * y
        s["VYY"] = d2 * s["VYY"] + w2 * y * y
        s["U"] = d2 * d2 * s["U"] + w2 * w2
        self._peak = max(d2 * self._peak, w2 * x * x)
        self.steps += 1

    def means(self) -> tuple[float, float]:
        """(trace, grad_sq), or what takes their places, debiased by the weight collected.

        Both are NaN before the first step: nothing was measured, and 0 would be a measured value.
        """
        s = self._sums
        if not s["W"]:
            return math.nan, math.nan
        mean_x = s["X"] / s["W"]
        mean_y = s["Y"] / s["W"]
        return mean_x, mean_y

    @property
    def n_eff(self) -> float:
        """Effective number of steps in the window, W²/V."""
        s = self._sums
        if not s["V"]:
            return 0.0
        return s["W"] ** 2 / s["V"]

    @property
    def nu(self) -> float:
        """Degrees of freedom of the variance, at least 1."""
        s = self._sums
        if not s["U"]:
            return 1.0
        return max(1.0, s["V"] ** 2 / s["U"] - 1)

    def covariance(self) -> Spread:
        """Sandwich variances of the two means and their covariance, with an unbiasing factor.

        Needs ``n_eff > 1``.
        """
        s = self._sums
        mx, my = self.means()
        k = 1 / (s["W"] ** 2 * (1 - 1 / self.n_eff))
        var_x = k * (s["VXX"] - 2 * mx * s["VX"] + mx * mx * s["V"])
        var_y = k * (s["VYY"] - 2 * my * s["VY"] + my * my * s["V"])
        cov_xy = k * (s["VXY"] - mx * s["VY"] - my * s["VX"] + mx * my * s["V"])
        return Spread(
            noise=max(0.0, var_x),
            signal=max(0.0, var_y),
            cross=cov_xy,
        )

    @property
    def dominance(self) -> float:
        """Share of the window's second moment of the trace that its heaviest step holds.

        Above a third, a few rare, very large examples dominate the average, and its interval is
        unreliable. The reverse does not hold: a window that has not yet met the rare example looks
        well behaved, and its interval lies too low.
        """
        second_moment = self._sums["VXX"]
        if not second_moment:
            return 0.0
        return self._peak / second_moment

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain Python numbers; a run that loads it continues bit for bit."""
        return {
            "decay": self.decay,
            "steps": self.steps,
            "peak": self._peak,
            "sums": dict(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`. The decay stays the one given at construction."""
        self.steps = state["steps"]
        self._peak = state["peak"]
        for name in SUMS:
            self._sums[name] = float(state["sums"][name])
