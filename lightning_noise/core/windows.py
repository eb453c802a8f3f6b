"""Three windows over the same steps: the interval is for an average over the past, and the past is
not now.
"""

from collections.abc import Sequence
from typing import Any

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import NoiseEstimate, estimate_from, ratio_interval
from lightning_noise.core.moments import Moments

SHORT_DECAYS = (0.9, 0.97)


class Windows:
    """Running averages with decays 0.9, 0.97 and ``decay``; the longest one that the shorter ones
    do not contradict speaks.

    After a fast change the old, large gradients rule a long average for hundreds of steps (33 shown
    where the truth was 136), while a short one is wide but right. So the window shown is the
    longest whose rho = |G|²/tr(Σ) lies inside the intervals of all shorter ones. With ``decay`` at
    most 0.9, or with ``short=()``, there is one window.
    """

    def __init__(self, decay: float, *, short: Sequence[float] | None = None) -> None:
        shorter = SHORT_DECAYS if short is None else short
        self.averages = [RunningAverage(d) for d in (*(s for s in shorter if s < decay), decay)]

    def update(self, moments: Moments, age: float = 1.0) -> None:
        """Adds one step to all windows; ``age`` as in :meth:`RunningAverage.update`."""
        for average in self.averages:
            average.update(moments, age)

    def current(self) -> RunningAverage:
        """The longest window that no shorter one contradicts (the shortest one, where all others
        are contradicted).
        """
        best = self.averages[0]
        bounds: list[tuple[float, float]] = []
        for average in self.averages:
            ratio = ratio_interval(average)
            if (
                ratio is None
            ):  # nothing measured: it cannot contradict, and is as good as any while all are young
                best = average if not bounds else best
                continue
            if all(low <= ratio.rho <= high for low, high in bounds):
                best = average
            bounds.append((ratio.low, ratio.high))
        return best

    def estimate(self, confidence: float = 0.95, data_size: float | None = None) -> NoiseEstimate:
        """The estimate of the window that speaks; see :func:`estimate_from`."""
        return estimate_from(self.current(), confidence=confidence, data_size=data_size)

    def state_dict(self) -> list[dict[str, Any]]:
        """Plain Python values, exact."""
        return [average.state_dict() for average in self.averages]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restores :meth:`state_dict`; a window with another decay than any saved one starts from
        the nearest saved one.
        """
        for average in self.averages:
            average.load_state_dict(
                min(state, key=lambda saved: abs(saved["decay"] - average.decay))
            )
