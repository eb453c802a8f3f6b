"""What global size next, and why? Pure rules from an estimate to a decision."""

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from lightning_noise.core.estimate import NoiseEstimate, repeats_dominate
from lightning_noise.core.tradeoff import exchange_rate_size

DECISION_CONFIDENCE = 0.99  # decisions are many and errors cost a run: wider than the 95 % interval that is shown
LEAST_N_EFF = 10.0 - 1e-9  # (ten equal steps, rounded) below this even a 99 % interval from so few steps is no ground to act


class Decision(NamedTuple):
    """The global size to use from now on, in examples, and the reason in words.

    The reason begins with ``grow:``, ``shrink:`` or ``keep:``.
    """

    global_size: int
    reason: str


@runtime_checkable
class BatchSizePolicy(Protocol):
    """A pure rule from what is known and the size in use to the next global size."""

    def __call__(self, estimate: NoiseEstimate, global_size: float) -> Decision:
        """Decides from ``estimate``, whose interval is a 99 % one, and the ``global_size`` in use, both in examples."""
        ...


@dataclass(frozen=True)
class _Limits:
    """The cautions that all rules share; a rule adds its target and its cost.

    ``grow`` needs the lower end of the interval to exclude the size in use, ``shrink`` the upper end, and both need a
    predicted gain: what the cost in use exceeds the cost at the target by, although ``max_change`` may make it take several
    decisions to get there. Without an upper end (|G|² not resolved) the lower one is the target, and only for growing.
    """

    _: KW_ONLY
    least: float | None = None
    greatest: float | None = None
    max_change: float = 2.0
    min_gain: float = 0.05
    shrink: bool = False

    def __post_init__(self) -> None:
        for name in ("least", "greatest"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), lower=1, rule="None or a finite number >= 1")
        if self.least is not None and self.greatest is not None and self.least > self.greatest:
            raise ValueError(f"least must not be above greatest, got least={self.least}, greatest={self.greatest}.")
        _check_number("max_change", self.max_change, lower=1, strict=True, rule="a finite number > 1; 2.0 doubles at most")
        _check_number("min_gain", self.min_gain, lower=0, rule="a finite number >= 0; 0.05 is 5 %")
        if not isinstance(self.shrink, bool):
            raise TypeError(f"shrink must be a bool, got {self.shrink!r}.")

    def target(self, b: float) -> float:
        """The best global size at a noise scale of ``b`` examples."""
        raise NotImplementedError

    def cost(self, b: float, global_size: float) -> float:
        """What training costs at ``global_size``, least at the target; its unit cancels in the gain."""
        raise NotImplementedError

    def __call__(self, estimate: NoiseEstimate, global_size: float) -> Decision:
        """Decides; see :class:`BatchSizePolicy`."""
        if not (math.isfinite(global_size) and global_size > 0):
            raise ValueError(f"global_size must be a finite number > 0, got {global_size!r}.")
        if estimate.n_eff < LEAST_N_EFF:
            return _keep(global_size, f"{estimate.n_eff:.1f} effective steps are measured, a decision needs 10")
        if estimate.low is None:
            return _keep(global_size, "the noise scale is not measured yet")
        if self.target(estimate.low) > global_size:
            return self._grow(estimate, estimate.low, global_size)
        if estimate.high is not None and self.target(estimate.high) < global_size:
            return self._shrink(estimate, estimate.high, global_size)
        return _keep(global_size, f"{self._says(estimate)}, which does not exclude the size in use")

    def _grow(self, estimate: NoiseEstimate, low: float, size: float) -> Decision:
        b = low if estimate.b_simple is None or estimate.high is None else estimate.b_simple
        goal = max(self.target(b), self.least or 0.0)
        if self.greatest is not None and goal > self.greatest:
            goal = self.greatest
            if size >= goal:
                return _keep(size, f"{self._says(estimate)}, but the size in use is at the limit greatest={_number(goal)}")
        return self._move("grow", estimate, b, size, goal, math.floor(min(goal, size * self.max_change)))

    def _shrink(self, estimate: NoiseEstimate, high: float, size: float) -> Decision:
        if not self.shrink:
            return _keep(size, f"{self._says(estimate)}, but shrinking is not allowed (shrink=False)")
        b = high if estimate.b_simple is None else estimate.b_simple
        goal = max(self.target(b), 1.0)
        if self.greatest is not None:
            goal = min(goal, self.greatest)
        if self.least is not None and goal < self.least:
            goal = self.least
            if size <= goal:
                return _keep(size, f"{self._says(estimate)}, but the size in use is at the limit least={_number(goal)}")
        return self._move("shrink", estimate, b, size, goal, math.ceil(max(goal, size / self.max_change)))

    def _move(self, verb: str, estimate: NoiseEstimate, b: float, size: float, goal: float, new: int) -> Decision:
        """``new`` is ``goal`` within ×max_change, rounded so that no limit is passed; the gain is that of the goal."""
        gain = self.cost(b, size) / self.cost(b, goal) - 1
        says = self._says(estimate)
        if gain <= self.min_gain:
            return _keep(size, f"{says}, but the predicted gain of {_percent(gain)} is not above {_percent(self.min_gain)}")
        if (new <= size) if verb == "grow" else (new >= size):
            return _keep(size, f"{says}, but there is no whole number within ×{self.max_change:g} on the way")
        return Decision(new, f"{verb}: {says}, predicted gain {_percent(gain)}")

    def _says(self, estimate: NoiseEstimate) -> str:
        if estimate.b_simple is None or estimate.high is None:
            b, text = estimate.low or 0.0, f"b_simple is at least {_number(estimate.low or 0.0)}"
        else:
            b, ends = estimate.b_simple, f"[{_number(estimate.low or 0.0)}, {_number(estimate.high)}]"
            text = f"b_simple is {_number(b)} {ends}"
        target = self.target(b) if b else b
        return text if target == b else f"{text}, target {_number(target)}"


@dataclass(frozen=True)
class TrackNoiseScale(_Limits):
    """Keeps the global size at ``fraction`` times the noise scale: B = fraction · B_simple.

    At B = B_simple a run needs twice the least steps and twice the least examples (McCandlish et al. 2018, eq. 2.11). With
    T = fraction · B_simple the cost of a size B is ``(1 + T/B)(1 + B/T)``: for ``fraction=1`` the product of the two overheads.

    Args:
        fraction: target size per noise scale; below 1 saves examples, above 1 saves steps.
        least: no decision goes below this global size, in examples; ``None``: the size that the run starts with.
        greatest: no decision goes above it; ``None``: no limit here.
        max_change: greatest factor of one change.
        min_gain: changes only where the cost in use exceeds the cost at the target by more than this share; 0.05 means
            that the target must lie a factor 1.56 away.
        shrink: whether the size may also fall.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> policy = TrackNoiseScale()
    >>> policy(NoiseEstimate(1.0, 1843.0, 1843.0, 1500.0, 2260.0, True, 400, 180.0), 1024)
    Decision(global_size=1843, reason='grow: b_simple is 1843 [1500, 2260], predicted gain 9 %')
    >>> policy(NoiseEstimate(0.1, 900.0, None, 700.0, None, False, 400, 180.0), 64)
    Decision(global_size=128, reason='grow: b_simple is at least 700, predicted gain 226 %')
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        _check_number("fraction", self.fraction, lower=0, strict=True, rule="a finite number > 0; 1.0 is B_simple itself")
        super().__post_init__()

    def target(self, b: float) -> float:
        """``fraction`` · b."""
        return self.fraction * b

    def cost(self, b: float, global_size: float) -> float:
        """``(1 + T/B)(1 + B/T)`` with T the target; 4 at the target."""
        ratio = global_size / self.target(b)
        return (1 + ratio) * (1 + 1 / ratio)


@dataclass(frozen=True)
class ExchangeRate(_Limits):
    """The size at which one more optimizer step is worth ``rate`` examples: B = sqrt(rate · B_simple).

    A run costs ``E + rate · S`` examples. By the large-batch model the same progress costs ``(R + B) + rate · (1 + R/B)`` at
    size B and noise scale R, least at B = sqrt(rate · R) (McCandlish et al. 2018, eq. D.3); this is the cost that a change must
    lower by more than ``min_gain``. Where ``rate`` is R it is the rule of ``TrackNoiseScale(1.0)``; elsewhere the cost is
    flatter and changes are fewer.

    Args:
        rate: how many more examples one would use to save one step. With a step of fixed cost t and a cost of c an example,
            rate = t/c.
        least, greatest, max_change, min_gain, shrink: as in :class:`TrackNoiseScale`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> ExchangeRate(400)(NoiseEstimate(1.0, 100.0, 100.0, 80.0, 125.0, True, 400, 180.0), 64)
    Decision(global_size=128, reason='grow: b_simple is 100 [80, 125], target 200, predicted gain 32 %')
    """

    rate: float

    def __post_init__(self) -> None:
        _check_number("rate", self.rate, lower=0, strict=True, rule="a finite number > 0, in examples a step")
        super().__post_init__()

    def target(self, b: float) -> float:
        """sqrt(rate · b)."""
        return exchange_rate_size(self.rate, b)

    def cost(self, b: float, global_size: float) -> float:
        """Examples and steps for the same progress, in examples."""
        return (b + global_size) + self.rate * (1 + b / global_size)


def starting_from(policy: BatchSizePolicy, global_size: float) -> BatchSizePolicy:
    """The policy for a run that starts at ``global_size``: where ``least`` is ``None`` it becomes that size.

    A policy of the user's own is returned as it is.

    >>> starting_from(TrackNoiseScale(shrink=True), 16).least
    16
    """
    return replace(policy, least=global_size) if isinstance(policy, _Limits) and policy.least is None else policy


def trusting(policy: BatchSizePolicy, data_size: float | None) -> BatchSizePolicy:
    """The policy for a run over a finite data set, some of whose examples have been used more than once.

    It does not grow on a noise scale that says nothing about new data: one of the order of the data set, or one without an
    upper end (see :func:`~lightning_noise.core.estimate.repeats_dominate`). A policy of the user's own is returned as it is.

    Args:
        policy: what decides.
        data_size: examples of the data set; ``None`` while none has been used twice.

    >>> unresolved = NoiseEstimate(0.0, 100.0, None, 1900.0, None, False, 400, 180.0)
    >>> trusting(TrackNoiseScale(), 2000.0)(unresolved, 64).global_size
    64
    >>> trusting(TrackNoiseScale(), None)(unresolved, 64).global_size
    128
    """
    if data_size is None or not isinstance(policy, _Limits):
        return policy

    def decide(estimate: NoiseEstimate, global_size: float) -> Decision:
        decision = policy(estimate, global_size)
        if decision.global_size <= global_size or not repeats_dominate(estimate, data_size):
            return decision
        return _keep(
            global_size,
            f"{policy._says(estimate)}, which says nothing about new data: the data set has {_number(data_size)} examples, "
            "and they repeat",
        )

    return decide


def _keep(size: float, why: str) -> Decision:
    return Decision(round(size), f"keep: {why}")


def _number(value: float) -> str:
    """Whole from 100 up, three digits below.

    >>> _number(1843.2), _number(41.27), _number(0.5)
    ('1843', '41.3', '0.5')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    """Rounded, with a decimal below two percent, so that 0.4 % is not shown as nothing."""
    return f"{100 * share:.0f} %" if abs(share) >= 0.02 else f"{100 * share:.1f} %"


def _check_number(name: str, value: object, *, lower: float, rule: str, strict: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {rule}, got {value!r}.")
    if not math.isfinite(value) or value < lower or (strict and value == lower):
        raise ValueError(f"{name} must be {rule}, got {value!r}.")
