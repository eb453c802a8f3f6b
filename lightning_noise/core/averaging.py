"""Running weighted averages of the unbiased trace and |G|², with the second moments that give their
uncertainty.
"""

import math
from typing import Any, NamedTuple

from lightning_noise.core.moments import Moments


class Spread(NamedTuple):
    """Sandwich (co)variances of the averages of trace and grad_sq."""

    noise: float
    signal: float
    cross: float


class RunningAverage:
    """One exponentially decaying window over optimizer steps; ``decay=1`` is the plain weighted
    mean.

    A step weighs ``w = 1/c_big``, its effective batch size, which is nearly efficient when the
    batch size changes. Sums of w decay by d a step, sums of w² by d², of w⁴ by d⁴. The errors of
    successive steps are martingale differences, so there is no autocorrelation term.

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
        self._sums = dict.fromkeys(("W", "X", "Y", "V", "VX", "VY", "VXX", "VXY", "VYY", "U"), 0.0)
        self._peak = 0.0  # the largest single contribution to VXX still in the window

    def update(self, moments: Moments, age: float = 1.0) -> None:
        """Adds one step. ``age`` is the exponent of the decay: n/n_ref when it counts examples, 1
        when it counts steps.
        """
        self.add(moments.noise, moments.signal, 1 / moments.c_big, age)

    def add(self, x: float, y: float, w: float, age: float = 1.0) -> None:
        """Adds any pair of numbers that are to be averaged jointly, with weight w; x stands where
        the trace does.
        """
        d = max(min(self.decay, 0.9), self.decay**age)
        s = self._sums
        d2, w2 = d * d, w * w
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
        """(trace, grad_sq), or what stands in their places, debiased by the weight collected.

        Both are NaN before the first step: nothing was measured, and 0 would be a measured value.
        """
        s = self._sums
        if not s["W"]:
            return math.nan, math.nan
        return s["X"] / s["W"], s["Y"] / s["W"]

    @property
    def n_eff(self) -> float:
        """Effective number of steps in the window, W²/V."""
        return self._sums["W"] ** 2 / self._sums["V"] if self._sums["V"] else 0.0

    @property
    def nu(self) -> float:
        """Degrees of freedom of the variance, at least 1."""
        s = self._sums
        return max(1.0, s["V"] ** 2 / s["U"] - 1) if s["U"] else 1.0

    def covariance(self) -> Spread:
        """Unbiased-factor sandwich variances of the two means and their covariance. Needs ``n_eff >
        1``.
        """
        s = self._sums
        mx, my = self.means()
        k = 1 / (s["W"] ** 2 * (1 - 1 / self.n_eff))
        return Spread(
            noise=max(0.0, k * (s["VXX"] - 2 * mx * s["VX"] + mx * mx * s["V"])),
            signal=max(0.0, k * (s["VYY"] - 2 * my * s["VY"] + my * my * s["V"])),
            cross=k * (s["VXY"] - mx * s["VY"] - my * s["VX"] + mx * my * s["V"]),
        )

    @property
    def dominance(self) -> float:
        """Share of the window's second moment of the trace that its heaviest step holds.

        Over a third, a few rare, very large examples rule the average and its interval cannot be
        trusted. The reverse does not hold: a window that has not yet met the rare example looks
        well behaved, and its interval lies too low.
        """
        return self._peak / self._sums["VXX"] if self._sums["VXX"] else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain Python numbers: loading it continues bit for bit."""
        return {
            "decay": self.decay,
            "steps": self.steps,
            "peak": self._peak,
            "sums": dict(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`. The decay stays the one given at construction."""
        self.steps, self._peak = state["steps"], state["peak"]
        self._sums = {name: float(state["sums"][name]) for name in self._sums}
