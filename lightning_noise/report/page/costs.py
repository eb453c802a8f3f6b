"""What other batch sizes would cost, by the large-batch model."""

from collections.abc import Callable
from typing import NamedTuple

from lightning_noise.core.tradeoff import examples_factor, gain, steps_factor
from lightning_noise.report.page.times import Span
from lightning_noise.say.values import Basis

FACTORS = (1 / 4, 1 / 2, 1, 2, 4, 8, 16)


class Range(NamedTuple):
    """A number with its interval; ``None`` where it cannot be determined."""

    value: float | None
    low: float | None
    high: float | None

    def scaled(self, factor: float) -> "Range":
        """All of it, times a factor."""
        return Range(
            _scaled(self.value, factor),
            _scaled(self.low, factor),
            _scaled(self.high, factor),
        )


class Cost(NamedTuple):
    """One batch size.

    Args:
        size: in examples.
        in_use: whether it is that of the run.
        steps, examples: relative to their minimum.
        gain: how much more a step achieves than at the size in use; ``None`` where the noise scale
            is not resolved.
        hours_alike: for the progress of the run if a step takes as long at any size; ``None``
            without times or where the noise scale is not resolved.
        hours_in_proportion: the same if the time of a step is proportional to the size.
    """

    size: float
    in_use: bool
    steps: Range
    examples: Range
    gain: float | None
    hours_alike: Range | None = None
    hours_in_proportion: Range | None = None


def costs_of(basis: Basis, span: Span | None) -> list[Cost]:
    """The costs from a quarter of the batch size to sixteen times as much.

    Empty where not even a lower end of the noise scale is known. A quarter or a half that is not a
    whole number is left out.

    Args:
        basis: batch size and noise scale with its interval.
        span: what the run took; ``None`` where that is not known.
    """
    low = basis.low
    if low is None:
        return []
    is_whole = float(basis.size).is_integer()
    costs = []
    for factor in FACTORS:
        size = basis.size * factor
        if size < 1 or (is_whole and not size.is_integer()):
            continue
        if basis.b is None or basis.high is None:
            costs.append(_bounds(basis, low, size))
        else:
            costs.append(_resolved(basis.size, (basis.b, low, basis.high), size, span))
    return costs


def _bounds(basis: Basis, low: float, size: float) -> Cost:
    return Cost(
        size=size,
        in_use=size == basis.size,
        steps=Range(None, steps_factor(size, low), None),
        examples=Range(None, None, examples_factor(size, low)),
        gain=None,
    )


def _resolved(
    used: float,
    scales: tuple[float, float, float],
    size: float,
    span: Span | None,
) -> Cost:
    cost = Cost(
        size=size,
        in_use=size == used,
        steps=_over(scales, lambda b: steps_factor(size, b)),
        examples=_over(scales, lambda b: examples_factor(size, b)),
        gain=gain(scales[0], used, size),
    )
    if span is None or span.hours is None:
        return cost
    steps = _over(scales, lambda b: 1 / gain(b, used, size))
    examples = _over(scales, lambda b: examples_factor(size, b) / examples_factor(used, b))
    return cost._replace(
        hours_alike=steps.scaled(span.hours),
        hours_in_proportion=examples.scaled(span.hours),
    )


def _over(scales: tuple[float, float, float], cost: Callable[[float], float]) -> Range:
    """A cost is monotonic in the noise scale, so that it lies between those of the two ends."""
    b, low, high = scales
    ends = sorted([cost(low), cost(high)])
    return Range(cost(b), *ends)


def _scaled(value: float | None, factor: float) -> float | None:
    if value is None:
        return None
    return value * factor
