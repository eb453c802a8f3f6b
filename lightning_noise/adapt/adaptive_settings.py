"""The argument ``adaptive_batch_size``, checked where it is given."""

from dataclasses import dataclass
from typing import Literal

from lightning_noise.adapt.learning_rate import RateRule, check_rule
from lightning_noise.adapt.least_time import LeastTime
from lightning_noise.adapt.policy import BatchSizePolicy
from lightning_noise.adapt.run_policy import averages_by_examples, decides_inside_epochs
from lightning_noise.core.checks import check_count, check_flag

# Optimizer steps between two decisions inside an epoch.
WITHIN_EPOCH = 50  # where ``within_epoch`` asks for them
BY_LEAST_TIME = 20  # less time to the goal than between epochs


@dataclass(frozen=True)
class AdaptiveBatchSize:
    """How the measured noise scale sets the batch size.

    Give it to the callback: ``GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(...))``.

    Args:
        policy: which global size comes next, and why: ``LeastTime()`` (also for ``None``),
            ``TrackNoiseScale()``, ``ExchangeRate(rate)``, or any callable ``(estimate, global_size)
            -> Decision``, whose estimate has a 99 % interval. It is called on rank 0 only.
        learning_rate: how the rate follows, by one factor from the starting size to the current
            one: "optimal" (the gain of the large-batch model, to the power 1 for SGD and 1/2 for
            Adam kinds), "middle" (the geometric mean of this and of the ratio of the sizes to the
            same power), "linear", "sqrt", ``None`` (it does not), or a callable ``(old, new,
            estimate) -> factor``.
        schedule: what learning rate schedules that are stepped with the optimizer count while the
            batch size changes: "examples", so that they end when training does, or "steps".
        guard: whether a loss that jumps lowers the factor on the learning rate and stops growth for
            a while.
        max_local_size: largest micro-batch of a rank, in the loader's examples, beyond which
            ``accumulate_grad_batches`` takes over. ``None``: no limit on the loader's batch.
        within_epoch: the earlier name of ``every=50``.
        advise_only: decisions are logged and printed, and nothing changes.
        every: "epoch" decides between epochs; a number n also decides inside them, n optimizer
            steps after the last decision. Every example is still used once per epoch. ``None``
            means 20 for ``LeastTime``, else "epoch".

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> AdaptiveBatchSize(max_local_size=0)
    Traceback (most recent call last):
    ValueError: max_local_size must be None or an int >= 1, got 0.
    """

    # None: LightningCLI cannot tell a default instance of a protocol from a dictionary
    policy: BatchSizePolicy | None = None
    learning_rate: RateRule = "middle"
    max_local_size: int | None = None
    schedule: Literal["examples", "steps"] = "examples"
    guard: bool = True
    within_epoch: bool = False
    advise_only: bool = False
    every: Literal["epoch"] | int | None = None

    @property
    def steps_between(self) -> int | None:
        """Optimizer steps between decisions inside an epoch; ``None`` where there are none."""
        if isinstance(self.every, int):
            return self.every
        return None

    @property
    def rule(self) -> BatchSizePolicy:
        """The policy, or the default one."""
        if self.policy is None:
            return LeastTime()
        return self.policy

    @property
    def averages_by_examples(self) -> bool:
        """Whether the averages of the noise scale decay by examples, and not by steps."""
        return not self.advise_only and averages_by_examples(self.rule)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", self.rule)
        check_policy("policy", self.policy)
        check_rule(self.learning_rate)
        if self.max_local_size is not None:
            check_count("max_local_size", self.max_local_size, also="None or ")
        if self.schedule not in ("examples", "steps"):
            raise ValueError(f"schedule must be 'examples' or 'steps', got {self.schedule!r}.")
        check_flag("guard", self.guard)
        check_flag("within_epoch", self.within_epoch)
        check_flag("advise_only", self.advise_only)
        if self.every is None:
            object.__setattr__(self, "every", self._default_every())
        elif self.every != "epoch":
            check_count("every", self.every, also='None, "epoch" or ')

    def _default_every(self) -> Literal["epoch"] | int:
        if self.within_epoch:
            return WITHIN_EPOCH
        if decides_inside_epochs(self.rule) and not self.advise_only:
            return BY_LEAST_TIME
        return "epoch"


def check_policy(name: str, value: object) -> None:
    """Refuses what cannot be called as a policy, such as a class that was not instantiated.

    Raises:
        TypeError: it is not a policy.
    """
    if isinstance(value, type) or not callable(value):
        rule = "a callable (estimate, global_size) -> Decision such as TrackNoiseScale()"
        raise TypeError(f"{name} must be a BatchSizePolicy, {rule}, got {value!r}.")


def adaptive_settings(value: object) -> AdaptiveBatchSize | None:
    """The settings that the callback's argument stands for.

    ``None`` where the batch size does not adapt.

    Raises:
        TypeError: it is none of False, True, a policy and an ``AdaptiveBatchSize``.

    >>> adaptive_settings(False) is None, adaptive_settings(True) == AdaptiveBatchSize()
    (True, True)
    """
    if value is False:
        return None
    if value is True:
        return AdaptiveBatchSize()
    if isinstance(value, AdaptiveBatchSize):
        return value
    if isinstance(value, type) or not callable(value):
        rule = "a bool, a BatchSizePolicy such as TrackNoiseScale() or an AdaptiveBatchSize"
        raise TypeError(f"adaptive_batch_size must be {rule}, got {value!r}.")
    return AdaptiveBatchSize(value)
