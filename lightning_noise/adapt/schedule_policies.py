"""Batch sizes by a plan instead of a measurement, with the noise scale as a check."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_noise.adapt.policy import Decision, Verb, decision, keep
from lightning_noise.adapt.run_policy import RunPolicy, Situation, doublings
from lightning_noise.core.checks import check_number
from lightning_noise.core.digits import in_digits
from lightning_noise.core.estimate import NoiseEstimate


class PlannedPolicy(RunPolicy):
    """Grows to the size that a plan gives for the examples used so far; it never shrinks."""

    @abstractmethod
    def planned(self, start: float, examples: float) -> float:
        """The global size after so many examples."""

    def decide(self, estimate: NoiseEstimate, global_size: float, situation: Situation) -> Decision:
        """Decides; see the class."""
        wanted = self.planned(situation.start, situation.examples)
        used = f"the plan after {in_digits(situation.examples)} examples"
        if wanted <= global_size:
            return keep(global_size, used)
        return decision(Verb.GROW, round(wanted), f"{used}{_outrun(estimate, wanted)}")


def _outrun(estimate: NoiseEstimate, wanted: float) -> str:
    """In words, where a size is above the upper end of the noise scale."""
    if estimate.high is None or wanted <= estimate.high:
        return ""
    high = in_digits(estimate.high)
    return f"; it outruns the noise scale, which is at most {high}: larger steps gain little"


@dataclass(frozen=True)
class BatchSizeWarmUp(PlannedPolicy):
    """Doubles the batch size, at equal distances in examples, until it is ``greatest``.

    The noise scale is small at the start of training, when a large batch gains little (Merrill et
    al. 2025, arXiv 2505.23971). Use it with ``learning_rate="sqrt"``, as there.

    Args:
        greatest: global size at the end; the last doubling that is not above it is the last one.
        examples: used when the last doubling happens.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> plan = BatchSizeWarmUp(greatest=256, examples=8000)
    >>> [plan.planned(64, used) for used in (0, 3999, 4000, 8000, 9000)]
    [64, 64, 128, 256, 256]
    """

    greatest: float
    examples: float

    def __post_init__(self) -> None:
        check_number("greatest", self.greatest, lower=1, rule="a finite number >= 1")
        rule = "a finite number > 0"
        check_number("examples", self.examples, lower=0, strict=True, rule=rule)

    def planned(self, start: float, examples: float) -> float:
        """The global size after so many examples."""
        last = doublings(start, self.greatest)
        share = min(1.0, examples / self.examples)
        done = math.floor(last * share + 1e-9)
        return start * (1 << done)


@dataclass(frozen=True)
class BatchSizeRamp(PlannedPolicy):
    """Multiplies the batch size by ``factor`` at each milestone, in place of a lower learning rate.

    With ``learning_rate=None`` the learning rate stays, as in Smith et al. 2018 (arXiv
    1711.00489). With ``learning_rate=seesaw`` it falls by the root of the factor, as in Seesaw
    (Meterez et al. 2025, arXiv 2510.14717).

    Args:
        milestones: examples used when the batch size grows, in increasing order.
        factor: by which it grows.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> plan = BatchSizeRamp([1000, 2000], factor=4)
    >>> [plan.planned(16, used) for used in (999, 1000, 2500)]
    [16, 64, 256]
    """

    milestones: Sequence[float]
    factor: float = 2.0

    def __post_init__(self) -> None:
        rule = "increasing numbers of examples, each finite and > 0"
        if isinstance(self.milestones, (str, bytes)) or not isinstance(self.milestones, Sequence):
            raise TypeError(f"milestones must be {rule}, got {self.milestones!r}.")
        before = 0.0
        for milestone in self.milestones:
            check_number("milestones", milestone, lower=0, strict=True, rule=rule)
            if milestone <= before:
                raise ValueError(f"milestones must be {rule}, got {self.milestones!r}.")
            before = milestone
        object.__setattr__(self, "milestones", tuple(self.milestones))
        twice = "a finite number > 1; 2.0 doubles"
        check_number("factor", self.factor, lower=1, strict=True, rule=twice)

    def planned(self, start: float, examples: float) -> float:
        """The global size after so many examples."""
        passed = sum(1 for milestone in self.milestones if examples >= milestone)
        grown: float = self.factor**passed
        return start * grown


def seesaw(old: float, new: float, estimate: NoiseEstimate) -> float:  # noqa: ARG001  # of RateFn
    """The factor on the learning rate of Seesaw: the root of ``old/new``.

    >>> from lightning_noise.core.estimate import estimate_from
    >>> seen = NoiseEstimate(None, None, None, 1.0, 1.0, False, 0, 0.0)
    >>> seesaw(16, 64, seen)
    0.5
    """
    return math.sqrt(old / new)
