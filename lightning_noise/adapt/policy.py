"""Which global size comes next, and why? Pure rules from an estimate to a decision."""

import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from lightning_noise.core.checks import check_flag, check_number, check_positive
from lightning_noise.core.digits import in_digits, in_percent
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.tradeoff import exchange_rate_size

# Decisions are many and errors cost a run: wider than the 95 % interval that is shown.
DECISION_CONFIDENCE = 0.99
# Ten equal steps, rounded: from fewer, not even a 99 % interval justifies a change.
LEAST_FOR_DECISION = 10.0 - 1e-9


class Verb(Enum):
    """What a decision does to the global size; its reason begins with it."""

    GROW = "grow"
    SHRINK = "shrink"
    KEEP = "keep"


class Decision(NamedTuple):
    """The global size to use from now on, in examples, and the reason in words.

    The reason begins with ``grow:``, ``shrink:`` or ``keep:``.
    """

    global_size: int
    reason: str


@runtime_checkable
class BatchSizePolicy(Protocol):
    """A pure rule from an estimate and the current global size to the next one."""

    def __call__(self, estimate: NoiseEstimate, global_size: float) -> Decision:
        """Decides from an estimate with a 99 % interval and the current size, in examples."""
        ...


class _Aim(NamedTuple):
    """Where a decision moves to.

    Args:
        b: the noise scale that it relies on.
        goal: the best size there.
        new: that size within ×max_change, rounded towards the current one.
    """

    b: float
    goal: float
    new: int


@dataclass(frozen=True)
class CautiousPolicy(ABC):
    """The cautions that all rules share; a rule adds its target and its cost.

    ``grow`` needs the lower end of the interval to exclude the current size, ``shrink`` the upper
    end. Both need a predicted gain: how far the current cost exceeds the cost at the target, even
    if ``max_change`` makes it take several decisions to get there. Without an upper end (|G|² not
    resolved) the lower one is the target, and only for growing.
    """

    _: KW_ONLY
    least: float | None = None
    greatest: float | None = None
    max_change: float = 2.0
    min_gain: float = 0.05
    shrink: bool = False

    def __post_init__(self) -> None:
        size = "None or a finite number >= 1"
        if self.least is not None:
            check_number("least", self.least, lower=1, rule=size)
        if self.greatest is not None:
            check_number("greatest", self.greatest, lower=1, rule=size)
        if self.least is not None and self.greatest is not None and self.least > self.greatest:
            given = f"least={self.least}, greatest={self.greatest}"
            raise ValueError(f"least must not be above greatest, got {given}.")
        twice = "a finite number > 1; 2.0 doubles at most"
        check_number("max_change", self.max_change, lower=1, strict=True, rule=twice)
        share = "a finite number >= 0; 0.05 is 5 %"
        check_number("min_gain", self.min_gain, lower=0, rule=share)
        check_flag("shrink", self.shrink)

    @abstractmethod
    def target(self, b: float) -> float:
        """The best global size at a noise scale of ``b`` examples."""

    @abstractmethod
    def cost(self, b: float, global_size: float) -> float:
        """The cost of training at ``global_size``, least at the target.

        Its unit cancels in the gain.
        """

    def __call__(self, estimate: NoiseEstimate, global_size: float) -> Decision:
        """Decides; see :class:`BatchSizePolicy`."""
        check_positive(global_size=global_size)
        if estimate.n_eff < LEAST_FOR_DECISION:
            measured = f"{estimate.n_eff:.1f} effective steps are measured"
            return keep(global_size, f"{measured}, a decision needs 10")
        if estimate.low is None:
            return keep(global_size, "the noise scale is not measured yet")
        if self.target(estimate.low) > global_size:
            return self._grow(estimate, estimate.low, global_size)
        if estimate.high is not None and self.target(estimate.high) < global_size:
            return self._shrink(estimate, estimate.high, global_size)
        seen = self.describe(estimate)
        return keep(global_size, f"{seen}, which does not exclude the current size")

    def _grow(self, estimate: NoiseEstimate, low: float, size: float) -> Decision:
        b = low
        if estimate.noise_scale is not None and estimate.high is not None:
            b = estimate.noise_scale
        goal = max(self.target(b), self.least or 0.0)
        if self.greatest is not None and goal > self.greatest:
            goal = self.greatest
            if size >= goal:
                return self._keep_at_limit(estimate, size, f"greatest={in_digits(goal)}")
        new = math.floor(min(goal, size * self.max_change))
        return self._move(Verb.GROW, estimate, size, _Aim(b, goal, new))

    def _shrink(self, estimate: NoiseEstimate, high: float, size: float) -> Decision:
        if not self.shrink:
            seen = self.describe(estimate)
            return keep(size, f"{seen}, but shrinking is not allowed (shrink=False)")
        b = estimate.noise_scale
        if b is None:
            b = high
        goal = max(self.target(b), 1.0)
        if self.greatest is not None:
            goal = min(goal, self.greatest)
        if self.least is not None and goal < self.least:
            goal = self.least
            if size <= goal:
                return self._keep_at_limit(estimate, size, f"least={in_digits(goal)}")
        new = math.ceil(max(goal, size / self.max_change))
        return self._move(Verb.SHRINK, estimate, size, _Aim(b, goal, new))

    def _keep_at_limit(self, estimate: NoiseEstimate, size: float, limit: str) -> Decision:
        seen = self.describe(estimate)
        return keep(size, f"{seen}, but the current size is at the limit {limit}")

    def _move(self, verb: Verb, estimate: NoiseEstimate, size: float, aim: _Aim) -> Decision:
        """Moves if the gain at the goal is worth it."""
        current_cost = self.cost(aim.b, size)
        gain = current_cost / self.cost(aim.b, aim.goal) - 1
        seen = self.describe(estimate)
        if gain <= self.min_gain:
            least = in_percent(self.min_gain)
            short = f"the predicted gain of {in_percent(gain)} is not above {least}"
            return keep(size, f"{seen}, but {short}")
        grows = verb is Verb.GROW and aim.new > size
        shrinks = verb is Verb.SHRINK and aim.new < size
        if not grows and not shrinks:
            between = f"there is no integer within ×{self.max_change:g} on the way"
            return keep(size, f"{seen}, but {between}")
        why = f"{seen}, predicted gain {in_percent(gain)}"
        return decision(verb, aim.new, why)

    def describe(self, estimate: NoiseEstimate) -> str:
        """The measured noise scale and, where it differs, the target."""
        text = describe(estimate)
        b = estimate.low or 0.0
        if estimate.noise_scale is not None and estimate.high is not None:
            b = estimate.noise_scale
        if b == 0 or self.target(b) == b:
            return text
        return f"{text}, target {in_digits(self.target(b))}"


@dataclass(frozen=True)
class TrackNoiseScale(CautiousPolicy):
    """Keeps the global size at ``fraction`` times the noise scale: B = fraction · B_simple.

    At B = B_simple a run needs twice the minimum steps and twice the minimum examples (McCandlish
    et al. 2018, eq. 2.11). With T = fraction · B_simple the cost of a size B is ``(1 + T/B)(1 +
    B/T)``: for ``fraction=1`` the product of the two overheads.

    Args:
        fraction: target size per noise scale; below 1 saves examples, above 1 saves steps.
        least: no decision goes below this global size, in examples; ``None``: the size that the run
            starts with.
        greatest: no decision goes above it; ``None``: no limit here.
        max_change: greatest factor of one change.
        min_gain: changes only where the current cost exceeds the cost at the target by more than
            this share; 0.05 means that the target must lie a factor 1.56 away.
        shrink: whether the size may also fall.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> policy = TrackNoiseScale()
    >>> policy(NoiseEstimate(1843.0, 1500.0, 2260.0, 1.0, 1843.0, True, 400, 180.0), 1024)
    Decision(global_size=1843, reason='grow: b_simple is 1843 [1500, 2260], predicted gain 9 %')
    >>> policy(NoiseEstimate(None, 700.0, None, 0.1, 900.0, False, 400, 180.0), 64)
    Decision(global_size=128, reason='grow: b_simple is at least 700, predicted gain 226 %')
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        rule = "a finite number > 0; 1.0 is B_simple itself"
        check_number("fraction", self.fraction, lower=0, strict=True, rule=rule)
        super().__post_init__()

    def target(self, b: float) -> float:
        """``fraction`` · b."""
        return self.fraction * b

    def cost(self, b: float, global_size: float) -> float:
        """``(1 + T/B)(1 + B/T)`` with T the target; 4 at the target."""
        ratio = global_size / self.target(b)
        return (1 + ratio) * (1 + 1 / ratio)


@dataclass(frozen=True)
class ExchangeRate(CautiousPolicy):
    """The size at which one more optimizer step is worth ``rate`` examples.

    That is B = sqrt(rate · B_simple). A run costs ``E + rate · S`` examples. By the large-batch
    model the same progress costs ``(R + B) + rate · (1 + R/B)`` at size B and noise scale R, least
    at B = sqrt(rate · R) (McCandlish et al. 2018, eq. D.3); this is the cost that a change must
    lower by more than ``min_gain``. Where ``rate`` is R it is the rule of ``TrackNoiseScale(1.0)``;
    elsewhere the cost is flatter and changes are fewer.

    Args:
        rate: how many more examples you would use to save one step. With a step of fixed cost t and
            a cost of c per example, rate = t/c.
        least, greatest, max_change, min_gain, shrink: as in :class:`TrackNoiseScale`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> seen = NoiseEstimate(100.0, 80.0, 125.0, 1.0, 100.0, True, 400, 180.0)
    >>> ExchangeRate(400)(seen, 64).reason
    'grow: b_simple is 100 [80, 125], target 200, predicted gain 32 %'
    """

    rate: float

    def __post_init__(self) -> None:
        rule = "a finite number > 0, in examples per step"
        check_number("rate", self.rate, lower=0, strict=True, rule=rule)
        super().__post_init__()

    def target(self, b: float) -> float:
        """sqrt(rate · b)."""
        return exchange_rate_size(self.rate, b)

    def cost(self, b: float, global_size: float) -> float:
        """Examples and steps for the same progress, in examples."""
        return (b + global_size) + self.rate * (1 + b / global_size)


def describe(estimate: NoiseEstimate) -> str:
    """The measured noise scale, in words.

    >>> describe(NoiseEstimate(100.0, 80.0, 125.0, 1.0, 100.0, True, 400, 180.0))
    'b_simple is 100 [80, 125]'
    """
    low = in_digits(estimate.low or 0.0)
    if estimate.noise_scale is None or estimate.high is None:
        return f"b_simple is at least {low}"
    return f"b_simple is {in_digits(estimate.noise_scale)} [{low}, {in_digits(estimate.high)}]"


def checked(answer: object) -> Decision:
    """A policy's answer, where it is one.

    Raises:
        TypeError: it is not a ``Decision``; the message shows it.

    >>> checked((64, "keep: as it was"))
    Decision(global_size=64, reason='keep: as it was')
    """
    if isinstance(answer, tuple) and len(answer) == 2:
        size, reason = answer
        is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        if is_size and isinstance(reason, str):
            return Decision(size, reason)
    rule = "must return Decision(global_size: int >= 1, reason: str)"
    raise TypeError(f"a BatchSizePolicy {rule}, but it returned {answer!r}.")


def keep(size: float, why: str) -> Decision:
    """The decision not to change ``size``, for a reason."""
    return decision(Verb.KEEP, round(size), why)


def decision(verb: Verb, global_size: int, why: str) -> Decision:
    """A decision whose reason begins with its verb."""
    return Decision(global_size, f"{verb.value}: {why}")
