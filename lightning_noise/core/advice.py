"""What a measured noise scale means for the batch size in use: keep it, raise it or lower it.

The large-batch model of McCandlish et al. 2018 (section 2) predicts what a change costs. An advice
is data; ``lightning_noise.say.advice_text`` puts it into words.
"""

import math
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from lightning_noise.core.checks import check_positive
from lightning_noise.core.tradeoff import examples_factor, gain

FAR = 2.0  # a batch size within this factor of the interval is about right
OPEN = 8.0  # an interval that reaches this far above the batch size cannot say that it is right
# An advised change: far from the size in use the noise scale may be another one, so measure again.
MOST_DOUBLINGS = 3


class Situation(Enum):
    """Where a batch size lies beside the noise scale."""

    TOO_SMALL = "too small"
    ABOUT_RIGHT = "about right"
    TOO_LARGE = "too large"
    UNDETERMINED = "undetermined"


class Factor(NamedTuple):
    """A factor on a cost, with its range over the interval of the noise scale.

    ``high`` or ``low`` is ``None`` where the noise scale has no upper end.
    """

    value: float
    low: float | None
    high: float | None


class Step(NamedTuple):
    """What changing the batch size is predicted to do.

    Args:
        size: the new batch size, in examples.
        steps: factor on the number of optimizer steps to the same loss.
        examples: factor on the number of examples.
        gain: how much more one step achieves. It is the factor on the learning rate of plain SGD,
            and a step that takes less than ``gain`` times as long saves time.
    """

    size: float
    steps: Factor
    examples: Factor
    gain: float


class Advice(NamedTuple):
    """What to do about a batch size.

    Args:
        situation: of the batch size in use.
        size: the batch size in use, in examples.
        noise_scale: that the advice rests on; its lower end where it is not resolved.
        distance: factor between the two, at least 1.
        is_bound: whether the noise scale is only known to be at least so large.
        change: to the advised size; ``None`` where the size in use is to be kept.
        halving, doubling: what these would do; ``None`` where the situation is undetermined.
    """

    situation: Situation
    size: float
    noise_scale: float | None
    distance: float | None
    is_bound: bool
    change: Step | None
    halving: Step | None
    doubling: Step | None


def advise(size: float, b: float | None, low: float | None, high: float | None) -> Advice:
    """Advice for a batch size from a noise scale with its interval, all in examples.

    A batch size within a factor of two of the interval is about right: there a doubling or halving
    exchanges steps for examples at a rate near one. Outside, the advised size is the size in use
    times the power of two that comes nearest to the noise scale without crossing it, at most eight
    times larger or smaller. Where the
    noise scale is not resolved, its lower end is a valid bound and takes its place; it can only
    advise a larger batch. An interval that is open, or that reaches eight times above the batch
    size, cannot show that a size is right.

    Args:
        size: the batch size in use.
        b: the noise scale; ``None`` where it is not resolved.
        low: lower end of its interval; ``None`` where nothing has been measured.
        high: upper end of its interval; ``None`` where there is none.

    Raises:
        ValueError: a number is not finite and positive.

    Source: McCandlish et al. 2018, eq. 2.6, 2.7 and 2.11 (arXiv 1812.06162).

    >>> small = advise(32, 160, 108, 250)
    >>> small.situation.value, small.distance, small.change.size
    ('too small', 5.0, 128.0)
    >>> round(small.change.steps.value, 3), round(small.change.examples.value, 3)
    (0.375, 1.5)
    >>> advise(128, 160, 108, 250).situation.value, advise(1024, 160, 108, 250).change.size
    ('about right', 256.0)
    >>> advise(32, None, 108, None).change.size, advise(128, None, 108, None).situation.value
    (64.0, 'undetermined')
    """
    check_positive(size=size)
    if low is None:
        return Advice(Situation.UNDETERMINED, size, None, None, False, None, None, None)
    ends = {"b": b, "low": low, "high": high}
    check_positive(**{name: end for name, end in ends.items() if end is not None})
    known = low
    if b is not None:
        known = b
    situation = _situation(size, low, high)
    target = _target(size, known, situation)
    step_to = _stepping(size, known, low, high)
    change = halving = doubling = None
    if target != size:
        change = step_to(target)
    if situation is not Situation.UNDETERMINED:
        halving = step_to(size / 2)
        doubling = step_to(size * 2)
    return Advice(
        situation=situation,
        size=size,
        noise_scale=known,
        distance=max(known / size, size / known),
        is_bound=b is None,
        change=change,
        halving=halving,
        doubling=doubling,
    )


def _situation(size: float, low: float, high: float | None) -> Situation:
    if size * FAR < low:
        return Situation.TOO_SMALL
    if high is None or high > OPEN * size:
        return Situation.UNDETERMINED
    if size > FAR * high:
        return Situation.TOO_LARGE
    return Situation.ABOUT_RIGHT


def _target(size: float, known: float, situation: Situation) -> float:
    """The power of two times ``size`` that is nearest to the noise scale without crossing it.

    A smaller size is rounded to a whole one.
    """
    doublings = math.log2(known / size)
    if situation is Situation.TOO_SMALL:
        whole = min(math.floor(doublings + 1e-9), MOST_DOUBLINGS)
        return float(size * 2.0**whole)
    if situation is Situation.TOO_LARGE:
        whole = max(math.ceil(doublings - 1e-9), -MOST_DOUBLINGS)
        return float(max(1, round(size * 2.0**whole)))
    return size


def _stepping(
    size: float,
    known: float,
    low: float,
    high: float | None,
) -> Callable[[float], Step]:
    def step_to(target: float) -> Step:
        return Step(
            size=target,
            steps=_factor(lambda b: 1 / gain(b, size, target), known, low, high),
            examples=_factor(
                lambda b: examples_factor(target, b) / examples_factor(size, b),
                known,
                low,
                high,
            ),
            gain=gain(known, size, target),
        )

    return step_to


def _factor(
    cost: Callable[[float], float],
    known: float,
    low: float,
    high: float | None,
) -> Factor:
    """The cost is monotonic in the noise scale, so that its range lies between the ends."""
    if high is None:
        return Factor(cost(known), None, None)
    ends = sorted([cost(low), cost(high)])
    return Factor(cost(known), *ends)
