"""Three averages over the same steps, with different memory.

An interval holds for an average over the past, which may differ from the present.
"""

from collections.abc import Sequence
from typing import Any

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import NoiseEstimate, Ratio, estimate_from, ratio_interval
from lightning_noise.core.moments import Moments

SHORT_DECAYS = (0.9, 0.97)


class Windows:
    """Running averages with decays 0.9, 0.97 and ``decay``, of which one is reported.

    After a fast change the old, large gradients dominate a long average for hundreds of steps (33
    shown where the truth was 136), while the interval of a short one is wide but right. So the
    window that is reported is the longest whose rho = |G|²/tr(Σ) lies inside the intervals of all
    shorter ones. With ``decay`` at most 0.9, or with ``short=()``, there is one window.
    """

    def __init__(self, decay: float, *, short: Sequence[float] = SHORT_DECAYS) -> None:
        self.averages = []
        for shorter in short:
            if shorter < decay:
                self.averages.append(RunningAverage(shorter))
        self.averages.append(RunningAverage(decay))

    def update(self, moments: Moments, age: float = 1.0) -> None:
        """Adds one step to all windows; ``age`` as in :meth:`RunningAverage.update`."""
        for average in self.averages:
            average.update(moments, age)

    def current(self) -> RunningAverage:
        """The longest window that no shorter one contradicts.

        Where all others are contradicted, it is the shortest one.
        """
        best = self.averages[0]
        shorter: list[Ratio] = []
        for average in self.averages:
            ratio = ratio_interval(average)
            if ratio is None:  # it cannot contradict, and is as good as any while all are young
                if not shorter:
                    best = average
                continue
            if _is_inside(ratio.rho, shorter):
                best = average
            shorter.append(ratio)
        return best

    def estimate(self, confidence: float = 0.95, data_size: float | None = None) -> NoiseEstimate:
        """The estimate of the window that is reported; see :func:`estimate_from`."""
        return estimate_from(self.current(), confidence=confidence, data_size=data_size)

    def state_dict(self) -> list[dict[str, Any]]:
        """Plain Python values, exact."""
        return [average.state_dict() for average in self.averages]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restores :meth:`state_dict`.

        A window whose decay was not saved starts from the saved window with the nearest decay.
        """
        for average in self.averages:
            average.load_state_dict(_nearest(state, average.decay))


def _is_inside(rho: float, intervals: Sequence[Ratio]) -> bool:
    return all(interval.low <= rho <= interval.high for interval in intervals)


def _nearest(state: list[dict[str, Any]], decay: float) -> dict[str, Any]:
    return min(state, key=lambda saved: abs(saved["decay"] - decay))
