"""Policies that look at more of a run than its noise scale: step times, progress, past sizes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lightning_noise.adapt.policy import BatchSizePolicy, Decision
from lightning_noise.adapt.step_times import StepTimes
from lightning_noise.core.estimate import NoiseEstimate


class Left(NamedTuple):
    """A size that a run went back from, and the noise scale at that time."""

    global_size: float
    noise_scale: float


class Situation(NamedTuple):
    """What a :class:`RunPolicy` may know of a run; sizes are in the unit of the noise scale.

    Args:
        start: global size at the start.
        examples: used so far.
        times: of optimizer steps, by global size.
        left: the size that the run last went back from.
        accumulates: whether the next larger size would only accumulate more micro-batches.
        data_size: examples of a finite data set, some of which have been used again.
        rate_ratio: by which the learning rate changes from one global size to another, as the run's
            rule has it; ``None`` where the run does not say.
    """

    start: float
    examples: float = 0.0
    times: StepTimes = StepTimes()
    left: Left | None = None
    accumulates: bool = False
    data_size: float | None = None
    rate_ratio: Callable[[float, float], float] | None = None


class RunPolicy(ABC):
    """A policy that decides from the estimate, the current size and the situation of the run.

    Called without a situation, as any other policy, it decides as at the start of a run.
    """

    @property
    def needs_clock(self) -> bool:
        """Whether it decides by measured step times."""
        return False

    @property
    def averages_by_examples(self) -> bool:
        """Whether the averages that it decides from decay by examples, and not by steps."""
        return True

    @property
    def decides_inside_epochs(self) -> bool:
        """Whether it decides inside epochs where the user does not say."""
        return False

    @abstractmethod
    def decide(self, estimate: NoiseEstimate, global_size: float, situation: Situation) -> Decision:
        """The size to use next, and why."""

    def __call__(self, estimate: NoiseEstimate, global_size: float) -> Decision:
        """Decides; see :class:`BatchSizePolicy`."""
        return self.decide(estimate, global_size, Situation(global_size))


def in_situation(policy: BatchSizePolicy, situation: Situation) -> BatchSizePolicy:
    """The policy for this situation; one that looks at the estimate alone is unchanged."""
    if isinstance(policy, RunPolicy):
        return partial(policy.decide, situation=situation)
    return policy


def needs_clock(policy: BatchSizePolicy) -> bool:
    """Whether a policy decides by measured step times."""
    return isinstance(policy, RunPolicy) and policy.needs_clock


def decides_inside_epochs(policy: BatchSizePolicy) -> bool:
    """Whether a policy decides inside epochs where the user does not say."""
    return isinstance(policy, RunPolicy) and policy.decides_inside_epochs


def averages_by_examples(policy: BatchSizePolicy) -> bool:
    """Whether the averages that a policy decides from decay by examples, and not by steps.

    By examples they follow a noise scale that grows with the size, and forget so much faster that
    the interval stays wide.
    """
    return not isinstance(policy, RunPolicy) or policy.averages_by_examples


def doublings(start: float, global_size: float) -> int:
    """k of the greatest ``start · 2^k`` that is not above ``global_size``; at least 0.

    >>> [doublings(16, size) for size in (8, 16, 33, 128)]
    [0, 0, 1, 3]
    """
    if global_size <= start:
        return 0
    return math.floor(math.log2(global_size / start) + 1e-9)
