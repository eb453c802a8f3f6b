"""By what factor the learning rate of a branch follows its batch size."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from lightning_noise.adapt.learning_rate import alpha_for, check_rule

RateRule = Literal["auto", "linear", "sqrt"] | Callable[[float], float] | None
RULES = ("auto", "linear", "sqrt")


class Rate(NamedTuple):
    """The factor on the learning rate, and the rule that gave it in words."""

    factor: float
    rule: str


def check_rate_rule(rule: object) -> None:
    """Checks the argument ``learning_rate`` where it is given.

    Raises:
        TypeError, ValueError: it names no rule and cannot be called.
    """
    check_rule(rule, RULES, "a function from k to the factor")


def branch_rate(rule: RateRule, factor: float, kinds: Sequence[str]) -> Rate:
    """The factor on the learning rate at ``factor`` times the batch size.

    Args:
        rule: "auto": k for optimizers of the SGD kind, its root for all others; "linear": k;
            "sqrt": its root; None: 1; a function gets k and returns the factor.
        factor: k.
        kinds: names of the optimizer's class and of those that it inherits from, its own first.

    Raises:
        ValueError: a function returned anything but a finite number > 0.

    Source: Merrill et al. 2025 (arXiv 2505.23971).

    >>> branch_rate("auto", 4.0, ["SGD"])
    Rate(factor=4.0, rule='times k, as SGD is an optimizer of the SGD kind')
    >>> branch_rate("auto", 4.0, ["AdamW"]).factor
    2.0
    """
    if rule is None:
        return Rate(1.0, "unchanged")
    if rule == "linear":
        return Rate(factor, "times k")
    if rule == "sqrt":
        return Rate(math.sqrt(factor), "times the root of k")
    if rule == "auto":
        alpha = alpha_for(kinds)
        why = alpha.reason.split(", ", 1)[1]
        if alpha.value == 1:
            return Rate(factor, f"times k, {why}")
        return Rate(factor**alpha.value, f"times the root of k, {why}")
    return _checked(rule, factor)


def _checked(rule: Callable[[float], float], factor: float) -> Rate:
    """What a function of the user's gives."""
    name = getattr(rule, "__name__", type(rule).__name__)
    given: object = rule(factor)
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        number = float(given)
        if math.isfinite(number) and number > 0:
            return Rate(number, f"times {name}(k)")
    raise ValueError(
        f"learning_rate={name} must return a finite number > 0 (1.0 for no change), but for "
        f"k = {factor:g} it returned {given!r}."
    )
