"""Notices a loss that jumps while the batch size is larger than at the start."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RECENT = 25  # optimizer steps that are compared with those before
BEFORE = 75
JUMP = 1.5  # times the loss before
SURE = 4.0  # standard errors of the difference
LOWER = 0.5  # the factor on the learning rate after a jump, relative to before
REST = 200  # optimizer steps without growth after a jump
HEALS = 200  # optimizer steps in which the bound on the factor doubles


class Guard(NamedTuple):
    """What the guard knows; the next one comes from :meth:`after`.

    Args:
        losses: of the latest optimizer steps since the last jump, oldest first.
        ceiling: bound on the factor; ``None`` where there is none.
        rests: optimizer steps during which the batch size does not grow.
        jumps: how often the loss has jumped.
    """

    losses: tuple[float, ...] = ()
    ceiling: float | None = None
    rests: int = 0
    jumps: int = 0

    def bounded(self, rate_factor: float) -> float:
        """A factor on the learning rate, within the ceiling."""
        if self.ceiling is None:
            return rate_factor
        return min(rate_factor, self.ceiling)

    def after(self, losses: Iterable[float], rate_factor: float) -> "Guard":
        """The guard after the losses of further optimizer steps.

        A jump lowers the factor to half, but never below 1, which is the user's own learning rate.
        The ceiling then rises again until it no longer bounds the factor.

        Args:
            losses: of the steps, in their order.
            rate_factor: on the learning rate, by the rule.
        """
        guard = self
        for loss in losses:
            guard = guard._after_step(loss, rate_factor)
        return guard

    def _after_step(self, loss: float, rate_factor: float) -> "Guard":
        kept = (*self.losses, loss)[-(RECENT + BEFORE) :]
        guard = self._replace(losses=kept, rests=max(0, self.rests - 1))
        guard = guard._healed(rate_factor)
        if not has_jumped(kept):
            return guard
        lowered = max(1.0, guard.bounded(rate_factor) * LOWER)
        return Guard((), lowered, REST, self.jumps + 1)

    def _healed(self, rate_factor: float) -> "Guard":
        if self.ceiling is None or self.rests > 0:
            return self
        ceiling = self.ceiling * 2 ** (1 / HEALS)
        if ceiling >= rate_factor:
            return self._replace(ceiling=None)
        return self._replace(ceiling=ceiling)


def has_jumped(losses: Sequence[float]) -> bool:
    """Whether the latest loss is not finite, or the latest 25 are well above the 75 before.

    They are where their mean is 1.5 times as large and four standard errors larger, or where their
    median is 1.5 times as large as the mean before and above every one of the 75. The second covers
    a loss that grows by a factor in every step: its mean has a standard error of its own size.

    >>> calm = [1.0, 1.1] * 50
    >>> has_jumped(calm), has_jumped([*calm, math.inf])
    (False, True)
    >>> has_jumped(calm[:75] + [1.7] * 25)
    True
    """
    if losses and not math.isfinite(losses[-1]):
        return True
    if len(losses) < RECENT + BEFORE:
        return False
    largest = max(1.0, *map(abs, losses))  # the square of a huge loss would not be finite
    scaled = [loss / largest for loss in losses]
    recent, before = scaled[-RECENT:], scaled[-RECENT - BEFORE : -RECENT]
    mean = sum(recent) / RECENT
    mean_before = sum(before) / BEFORE
    level = mean_before + (JUMP - 1) * abs(mean_before)
    median = statistics.median(recent)
    if median > max(level, *before):
        return True
    if mean <= level:
        return False
    error = _variance(recent, mean) / RECENT + _variance(before, mean_before) / BEFORE
    return mean - mean_before > SURE * math.sqrt(error)


def _variance(values: Sequence[float], mean: float) -> float:
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
