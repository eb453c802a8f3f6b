"""By what factor the learning rate follows the batch size."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from lightning_noise.core.checks import check_positive
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.tradeoff import gain

RateFn = Callable[[float, float, NoiseEstimate], float]
RateRule = Literal["optimal", "middle", "linear", "sqrt"] | RateFn | None
RULES = ("optimal", "middle", "linear", "sqrt")

SGD_KINDS = frozenset({"SGD", "ASGD", "SGDW", "SGDP"})
ADAM_KINDS = frozenset(
    {
        "Adam",
        "AdamW",
        "NAdam",
        "RAdam",
        "Adamax",
        "SparseAdam",
        "RMSprop",
        "Adagrad",
        "Adadelta",
        "Adafactor",
        "LAMB",
        "Lamb",
    }
)


class Alpha(NamedTuple):
    """The exponent of the "optimal" rule for an optimizer, and why."""

    value: float
    reason: str


def alpha_for(kinds: Sequence[str]) -> Alpha:
    """1 for SGD with or without momentum, 1/2 for Adam kinds and for optimizers not known.

    1/2 changes the learning rate less, so it is the cautious choice.

    Args:
        kinds: names of the optimizer's class and of those that it inherits from, its own first.

    Source: McCandlish et al. 2018, appendix E.2: 1 for SGD and momentum, 0.5–1 in practice for Adam
    and RMSProp.

    >>> alpha_for(["AdamW", "Adam", "Optimizer"])
    Alpha(value=0.5, reason='alpha = 1/2, as AdamW is an optimizer of the Adam kind')
    """
    name = kinds[0]
    if not SGD_KINDS.isdisjoint(kinds):
        return Alpha(1.0, f"alpha = 1, as {name} is an optimizer of the SGD kind")
    if not ADAM_KINDS.isdisjoint(kinds):
        return Alpha(0.5, f"alpha = 1/2, as {name} is an optimizer of the Adam kind")
    return Alpha(0.5, f"alpha = 1/2, the cautious one, as {name} is not known")


def check_rule(rule: object, names: Sequence[str] = RULES, function: str = "a callable") -> None:
    """Checks the argument ``learning_rate`` where it is given.

    Args:
        rule: the argument.
        names: of the rules that can be chosen.
        function: what a callable must be, in words.

    Raises:
        TypeError, ValueError: it names no rule and cannot be called.

    >>> check_rule("sqrt")
    """
    if rule is None:
        return
    allowed = f"one of {list(names)}, None (no change) or {function}"
    message = f"learning_rate must be {allowed}, got {rule!r}."
    if isinstance(rule, str):
        if rule not in names:
            raise ValueError(message)
    elif isinstance(rule, type) or not callable(rule):
        raise TypeError(message)


def learning_rate_factor(
    rule: RateRule,
    old: float,
    new: float,
    estimate: NoiseEstimate,
    *,
    alpha: float = 1.0,
) -> float:
    """The factor on the learning rate when the global size goes from ``old`` to ``new``.

    Pass the size that the run started with as ``old`` and the current one as ``new``, so that there
    is one factor, with the estimate of the last decision. A product of factors from step to step
    would not return to 1 when the size does.

    Args:
        rule: "optimal": ``((1 + R/old)/(1 + R/new))^alpha``, between 1 and ``(new/old)^alpha``. The
            noise scale R is uncertain, so it is the end of the interval that gives the smaller
            rate: the lower one (none: 0) when growing, the upper one (none: infinite) when
            shrinking. "middle": the
            geometric mean of this and ``(new/old)^alpha``. "linear": new/old. "sqrt": its root.
            ``None``: 1. A callable gets (old, new,
            estimate) and returns the factor.
        old: global size in examples that the learning rate was chosen for.
        new: global size in examples from now on.
        estimate: what the decision was made from.
        alpha: 1 for SGD and momentum, 1/2 for Adam kinds.

    Raises:
        ValueError: ``rule`` is unknown, a size is not positive, or a callable returned anything
            but a finite number > 0.

    Source: McCandlish et al. 2018, section 2.3 and appendix E; for alpha = 1 the gain of AdaScale
    (Johnson et al. 2020).

    >>> seen = NoiseEstimate(1000.0, 800.0, 1200.0, 1.0, 1000.0, True, 400, 180.0)
    >>> round(learning_rate_factor("optimal", 100, 400, seen), 4)  # (1 + 800/100)/(1 + 800/400)
    3.0
    >>> round(learning_rate_factor("optimal", 100, 400, seen, alpha=0.5), 4)
    1.7321
    >>> learning_rate_factor("sqrt", 100, 400, seen), learning_rate_factor(None, 100, 400, seen)
    (2.0, 1.0)
    >>> round(learning_rate_factor("middle", 100, 400, seen), 4)  # sqrt(3 · 4)
    3.4641
    """
    check_rule(rule)
    check_positive(old=old, new=new)
    if rule is None:
        return 1.0
    if rule == "optimal":
        return _optimal(old, new, estimate, alpha)
    if rule == "middle":
        return math.sqrt(_optimal(old, new, estimate, alpha) * (new / old) ** alpha)
    if rule == "linear":
        return new / old
    if rule == "sqrt":
        return math.sqrt(new / old)
    return _checked(rule, rule(old, new, estimate))


def _optimal(old: float, new: float, estimate: NoiseEstimate, alpha: float) -> float:
    if new >= old:
        if estimate.low is None:
            return 1.0
        return float(gain(estimate.low, old, new) ** alpha)
    if estimate.high is None:
        return float((new / old) ** alpha)
    return float(gain(estimate.high, old, new) ** alpha)


def _checked(rule: RateFn, factor: object) -> float:
    if isinstance(factor, (int, float)) and not isinstance(factor, bool):
        number = float(factor)
        if math.isfinite(number) and number > 0:
            return number
    name = getattr(rule, "__name__", type(rule).__name__)
    raise ValueError(
        f"learning_rate={name} must return a finite number > 0 (1.0 for no change), but it "
        f"returned {factor!r}."
    )
