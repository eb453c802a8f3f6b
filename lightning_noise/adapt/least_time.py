"""The size at which a run gets furthest per second, within a bound on the examples."""

import math
from dataclasses import KW_ONLY, dataclass

from lightning_noise.adapt.policy import (
    LEAST_FOR_DECISION,
    Decision,
    Verb,
    decision,
    describe,
    keep,
)
from lightning_noise.adapt.run_policy import RunPolicy, Situation
from lightning_noise.adapt.step_times import Line
from lightning_noise.core.checks import check_number, check_positive
from lightning_noise.core.digits import in_digits, in_percent
from lightning_noise.core.estimate import NoiseEstimate, repeats_dominate
from lightning_noise.core.tradeoff import time_cost

UNKNOWN_ELASTICITY = 0.5  # between a fixed step time and one in proportion to the batch
BY_ACCUMULATION = 1.0  # every further micro-batch takes the time of the first
SURE = 2.0  # standard errors by which a measured cost must have risen
LONG_TIMED = 32  # steps of a size before it is left: a machine that pauses for less is not believed
STAY = 2.0  # factor by which the noise scale must have grown before a size is tried again


@dataclass(frozen=True)
class LeastTime(RunPolicy):
    """The size at which this run, on this machine, gets furthest per second.

    A step of B examples takes the time t(B). To make the progress of one step of the largest
    possible batch takes 1 + R/B steps, with R the noise scale, and hence the time
    ``t(B)(1 + R/B)``. The batch grows, by doubling, while a longer step is outweighed by the
    progress of a less noisy one: while η < R/(R + B), where η = d ln t/d ln B is the share of the
    step's time that grows with the batch. The step times are measured during the run. While only
    one size has been timed, η is taken as ½. Where the measured cost rose, the run goes back by
    one doubling and stays there until the noise scale has doubled.

    R is the lower end of its 99 % interval. Once examples repeat, the size grows only if R says
    something about new data (see :func:`~lightning_noise.core.estimate.repeats_dominate`).

    Args:
        waste: bounds the size by ``waste`` · R: a run uses at most ``1 + waste`` times the least
            examples. In a run R is the one expected at the new size: it grows where the learning
            rate grows less than the size (McCandlish et al. 2018, appendix C).
        min_gain: grows only where the predicted cost falls by more than this share.
        max_change: greatest factor of one change; at least 2, as sizes are doubled.
        step_time: ``(a, b)`` in seconds, or in any other unit of time, where steps of B examples
            take ``a + b·B``; decisions then do not depend on the clock, and runs can be repeated
            exactly. ``None``: measured. The verdict of such a run prints the pair.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> seen = NoiseEstimate(400.0, 390.0, 410.0, 1.0, 400.0, True, 400, 180.0)
    >>> policy = LeastTime(step_time=(64.0, 1.0))
    >>> policy(seen, 64)
    Decision(global_size=128, reason='grow: b_simple is 400 [390, 410], share of step time 0.5, \
of noise 0.859, predicted gain 17 %')
    >>> policy(seen, 128).reason
    'keep: b_simple is 400 [390, 410], but 256 is above 0.5 · 390 (waste=0.5)'
    """

    waste: float = 0.5
    _: KW_ONLY
    min_gain: float = 0.05
    max_change: float = 2.0
    step_time: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        half = "a finite number > 0; 0.5 allows 1.5 times the least examples"
        check_number("waste", self.waste, lower=0, strict=True, rule=half)
        share = "a finite number >= 0; 0.05 is 5 %"
        check_number("min_gain", self.min_gain, lower=0, rule=share)
        twice = "a finite number >= 2; 2.0 doubles at most"
        check_number("max_change", self.max_change, lower=2, rule=twice)
        if self.step_time is not None:
            pair = check_step_time(self.step_time)
            object.__setattr__(self, "step_time", pair)

    @property
    def needs_clock(self) -> bool:
        """Whether step times are measured."""
        return self.step_time is None

    @property
    def averages_by_examples(self) -> bool:
        """By steps: the lower end of a wide interval would hold the size back."""
        return False

    @property
    def decides_inside_epochs(self) -> bool:
        """It does, by the clock and by ``step_time`` alike."""
        return True

    def decide(self, estimate: NoiseEstimate, global_size: float, situation: Situation) -> Decision:
        """Decides; see :class:`LeastTime`."""
        check_positive(global_size=global_size)
        if estimate.n_eff < LEAST_FOR_DECISION:
            measured = f"{estimate.n_eff:.1f} effective steps are measured"
            return keep(global_size, f"{measured}, a decision needs 10")
        if estimate.low is None:
            return keep(global_size, "the noise scale is not measured yet")
        back = self._back(estimate, global_size, situation)
        if back is not None:
            return back
        data_size = situation.data_size
        if data_size is not None and repeats_dominate(estimate, data_size):
            repeat = f"the data set has {in_digits(data_size)} examples, and they repeat"
            seen = describe(estimate)
            return keep(global_size, f"{seen}, which says nothing about new data: {repeat}")
        return self._grow(estimate, estimate.low, global_size, situation)

    def _grow(
        self, estimate: NoiseEstimate, low: float, size: float, situation: Situation
    ) -> Decision:
        """Doubles as often as each doubling pays and is allowed."""
        best = size
        first = ""
        while 2 * best <= size * self.max_change:
            step = self._doubling(low, size, best, situation)
            first = first or step.why
            if not step.pays:
                break
            best *= 2
        seen = describe(estimate)
        if best == size:
            return keep(size, f"{seen}, {first}")
        return decision(Verb.GROW, round(best), f"{seen}, {first}")

    def _doubling(self, low: float, timed: float, size: float, situation: Situation) -> "_Doubling":
        """Whether to go from ``size`` to twice that, where ``timed`` is the current size."""
        new = 2 * size
        expected = low * _growth_of_noise_scale(size, new, situation)
        if new > self.waste * expected:
            bound = f"{self.waste:g} · {in_digits(expected)} (waste={self.waste:g})"
            if expected > low:
                bound += ", the lower end as expected there"
            return _Doubling(False, f"but {in_digits(new)} is above {bound}")
        left = situation.left
        if left is not None and new >= left.global_size and low < STAY * left.noise_scale:
            then = f"when the noise scale was {in_digits(left.noise_scale)}"
            wait = f"but {in_digits(left.global_size)} took longer {then}"
            return _Doubling(False, wait)
        elasticity = self._elasticity(timed, situation)
        if elasticity is None:
            return _Doubling(False, "but steps of the current size are not timed yet")
        now = 1 + elasticity * (size / timed - 1)  # times of steps, relative to the timed size
        then_time = 1 + elasticity * (new / timed - 1)
        gain = time_cost(now, low, size) / time_cost(then_time, low, new) - 1
        noise = low / (low + size)
        shares = f"share of step time {elasticity:.3g}, of noise {noise:.3g}"
        if situation.accumulates:
            shares = f"more accumulation saves no time, share of noise {noise:.3g}"
        if gain > self.min_gain:
            return _Doubling(True, f"{shares}, predicted gain {in_percent(gain)}")
        least = in_percent(self.min_gain)
        short = f"the predicted gain of {in_percent(gain)} is not above {least}"
        return _Doubling(False, f"{shares}: {short}")

    def _elasticity(self, size: float, situation: Situation) -> float | None:
        """η at a size; ``None`` where it cannot be determined yet."""
        if situation.accumulates:
            return BY_ACCUMULATION
        if self.step_time is not None:
            line = Line(*self.step_time)
            return line.per_example * size / line.at(size)
        measured = situation.times.elasticity(size)
        if measured is not None:
            return measured
        if size <= situation.start or len(situation.times.sizes) == 1:
            return UNKNOWN_ELASTICITY
        return None

    def _back(self, estimate: NoiseEstimate, size: float, situation: Situation) -> Decision | None:
        """Back by one doubling, where the measured cost rose with the last one."""
        before = size / 2
        if before < situation.start - 0.5 or self.step_time is not None:
            return None
        now = situation.times.at(size)
        earlier = situation.times.at(before)
        if now is None or earlier is None or earlier.median <= 0 or now.steps < LONG_TIMED:
            return None
        noise_scale = math.inf
        if estimate.noise_scale is not None:
            noise_scale = estimate.noise_scale
        fewer_steps = 2.0
        if math.isfinite(noise_scale):
            fewer_steps = time_cost(1, noise_scale, before) / time_cost(1, noise_scale, size)
        slower = (now.median - SURE * now.standard_error) / (
            earlier.median + SURE * earlier.standard_error
        )
        if slower <= fewer_steps:
            return None
        longer = f"a step takes {now.median / earlier.median:.3g} times as long as at "
        saves = f"{in_digits(before)} and does the work of {fewer_steps:.3g}"
        return decision(Verb.SHRINK, round(before), f"{describe(estimate)}, {longer}{saves}")


def _growth_of_noise_scale(old: float, new: float, situation: Situation) -> float:
    """By which the noise scale is expected to grow with the size, at least 1.

    Where the steps themselves hold the gradient up, it is in proportion to the size over the
    learning rate: to one over the temperature (McCandlish et al. 2018, appendix C). So it rises
    where the learning rate grows less than the size.
    """
    if situation.rate_ratio is None:
        return 1.0
    return max(1.0, new / old / situation.rate_ratio(old, new))


@dataclass(frozen=True)
class _Doubling:
    """Whether one doubling is taken, and why."""

    pays: bool
    why: str


def check_step_time(value: object) -> tuple[float, float]:
    """The pair ``(a, b)`` of ``step_time``; YAML gives a list.

    Raises:
        TypeError, ValueError: it is no pair of numbers >= 0 of which one is above 0.

    >>> check_step_time([0.01, 2e-05])
    (0.01, 2e-05)
    """
    rule = "None or (seconds of a step, seconds per example)"
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"step_time must be {rule}, got {value!r}.")
    for name, number in zip(("a", "b"), value, strict=True):
        check_number(f"step_time's {name}", number, lower=0, rule="a finite number >= 0")
    a, b = value
    if a + b == 0:
        raise ValueError(f"step_time must be {rule}, not both 0, got {value!r}.")
    return float(a), float(b)
