"""The noise scale over a run, separately for each learning rate: a small rate inflates it."""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from lightning_noise.core.estimate import NoiseEstimate

PARTS = 8  # bins per factor of three in the learning rate
HIGH = 1 / 3  # share of the peak from which on a learning rate counts as high
TINY = -(10**6)  # the bin of a learning rate of zero


class Resolved(NamedTuple):
    """One resolved value, in examples with its interval, and the measured step that it is from."""

    step: int
    noise_scale: float
    low: float
    high: float


@dataclass
class Stretch:
    """The measured steps whose learning rates lie in one bin.

    Args:
        first, last: resolved values.
        resolved_steps: number of steps with a resolved value.
        total: sum of these values.
        end: the estimate at the latest step, resolved or not, as ``(step, b_simple, low, high)``.
        size: examples that the latest step used.
    """

    first: Resolved | None = None
    last: Resolved | None = None
    resolved_steps: int = 0
    total: float = 0.0
    end: tuple[int, float | None, float | None, float | None] | None = None
    size: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean of the smoothed resolved values, in examples."""
        if not self.resolved_steps:
            return None
        return self.total / self.resolved_steps


class Trajectory:
    """First, mean and last resolved value of a run, also of the part with a high learning rate.

    B_simple is inversely proportional to the temperature, learning rate over batch size (McCandlish
    et al. 2018, section 2), so that the end of a decaying schedule says little about the run. A
    learning rate is high if it is at least a third of the greatest one (rounded to bins of 15 %).
    :attr:`mean` is that of the steps with a high rate.

    >>> trajectory = Trajectory()
    >>> for step, (b, rate) in enumerate([(100.0, 0.1), (200.0, 0.1), (9000.0, 0.001)]):
    ...     trajectory.add(NoiseEstimate(b, b / 2, b * 2, 1.0, b, True, step, 50.0), rate=rate)
    >>> trajectory.mean, trajectory.has_decayed
    (150.0, True)
    >>> trajectory.high.last.noise_scale, trajectory.last.noise_scale
    (200.0, 9000.0)
    """

    def __init__(self) -> None:
        self.first: Resolved | None = None
        self.last: Resolved | None = None
        self.peak_rate = 0.0
        self.last_rate: float | None = None
        self._stretches: dict[int, Stretch] = {}

    def add(
        self,
        estimate: NoiseEstimate,
        *,
        rate: float | None = None,
        size: float | None = None,
    ) -> None:
        """Adds the estimate after one more measured step.

        An unresolved one counts as an end, not as a value.

        Args:
            estimate: with all steps so far.
            rate: the learning rate of the step, as scheduled; ``None`` where there is none.
            size: examples that the step used.
        """
        self.last_rate = rate
        self.peak_rate = max(self.peak_rate, rate or 0.0)
        stretch = self._stretches.setdefault(_bin(rate), Stretch())
        stretch.end = (
            estimate.steps,
            estimate.noise_scale,
            estimate.low,
            estimate.high,
        )
        stretch.size = size
        if estimate.noise_scale is None or estimate.low is None or estimate.high is None:
            return
        self.last = Resolved(
            step=estimate.steps,
            noise_scale=estimate.noise_scale,
            low=estimate.low,
            high=estimate.high,
        )
        self.first = self.first or self.last
        stretch.first = stretch.first or self.last
        stretch.last = self.last
        stretch.resolved_steps += 1
        stretch.total += estimate.noise_scale

    @property
    def high(self) -> Stretch:
        """All steps whose learning rate was at least a third of the greatest one."""
        least = self._least_high_bin()
        return _join([part for at, part in self._stretches.items() if at >= least])

    def _least_high_bin(self) -> int:
        return _bin(self.peak_rate) - PARTS

    @property
    def has_decayed(self) -> bool:
        """Whether the learning rate of the latest step is below a third of the greatest one."""
        if self.last_rate is None:
            return False
        return _bin(self.last_rate) < self._least_high_bin()

    @property
    def mean(self) -> float | None:
        """Mean of the smoothed resolved values at high learning rates, in examples."""
        return self.high.mean

    @property
    def resolved_steps(self) -> int:
        """Number of measured steps with a resolved value."""
        return sum(part.resolved_steps for part in self._stretches.values())

    def state_dict(self) -> dict[str, Any]:
        """Plain Python values, exact."""
        stretches = []
        for at, part in self._stretches.items():
            stretches.append([at, _plain(part)])
        return {
            "first": _as_list(self.first),
            "last": _as_list(self.last),
            "rates": [self.peak_rate, self.last_rate],
            "stretches": stretches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, also that of a version that recorded no learning rates."""
        self.first = _resolved(state["first"])
        self.last = _resolved(state["last"])
        self.peak_rate, self.last_rate = state.get("rates", (0.0, None))
        self._stretches = {}
        if "stretches" in state:
            for at, part in state["stretches"]:
                self._stretches[at] = _stretch(part)
        else:
            self._stretches[_bin(None)] = Stretch(
                first=self.first,
                last=self.last,
                resolved_steps=state["resolved_steps"],
                total=state["sum"],
            )


def _bin(rate: float | None) -> int:
    """Without a learning rate every step counts, as if it had the greatest one."""
    if rate is None:
        return -TINY
    if rate <= 0:
        return TINY
    return math.floor(PARTS * math.log(rate, 3) + 1e-9)


def _join(parts: list[Stretch]) -> Stretch:
    firsts, lasts, totals = [], [], []
    resolved_steps = 0
    for part in parts:
        if part.first is not None:
            firsts.append(part.first)
        if part.last is not None:
            lasts.append(part.last)
        totals.append(part.total)
        resolved_steps += part.resolved_steps
    latest = max(parts, key=_end_step, default=Stretch())
    return Stretch(
        first=min(firsts, default=None),
        last=max(lasts, default=None),
        resolved_steps=resolved_steps,
        total=math.fsum(totals),
        end=latest.end,
        size=latest.size,
    )


def _end_step(stretch: Stretch) -> int:
    if stretch.end is None:
        return 0
    return stretch.end[0]


def _plain(stretch: Stretch) -> dict[str, Any]:
    return {
        **asdict(stretch),
        "first": _as_list(stretch.first),
        "last": _as_list(stretch.last),
        "end": _as_list(stretch.end),
    }


def _stretch(plain: dict[str, Any]) -> Stretch:
    end = plain["end"]
    if end is not None:
        end = tuple(end)
    fields = {
        **plain,
        "first": _resolved(plain["first"]),
        "last": _resolved(plain["last"]),
        "end": end,
    }
    return Stretch(**fields)


def _as_list(values: tuple[Any, ...] | None) -> list[Any] | None:
    if values is None:
        return None
    return list(values)


def _resolved(plain: list[Any] | None) -> Resolved | None:
    if not plain:
        return None
    return Resolved(*plain)
