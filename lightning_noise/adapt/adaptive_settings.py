"""The argument ``adaptive_batch_size``, checked where it is given."""

from dataclasses import dataclass

from lightning_noise.adapt.learning_rate import RateRule, check_rule
from lightning_noise.adapt.policy import BatchSizePolicy, TrackNoiseScale
from lightning_noise.core.checks import check_count, check_flag


@dataclass(frozen=True)
class AdaptiveBatchSize:
    """How the measured noise scale sets the batch size.

    Give it to the callback: ``GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(...))``.

    Args:
        policy: which global size comes next, and why: ``TrackNoiseScale()`` (also for ``None``),
            ``ExchangeRate(rate)``, or any callable ``(estimate, global_size) -> Decision``, whose
            estimate has a 99 % interval. It is called on rank 0 only.
        learning_rate: how the rate follows, by one factor from the starting size to the current
            one: "optimal" (the gain of the large-batch model, to the power 1 for SGD and 1/2 for
            Adam kinds), "linear", "sqrt", ``None`` (it does not), or a callable ``(old, new,
            estimate) -> factor``.
        max_local_size: largest micro-batch of a rank, in the loader's examples, beyond which
            ``accumulate_grad_batches`` takes over. ``None``: no limit on the loader's batch.
        within_epoch: also changes the accumulation inside an epoch, for training in one long epoch.
        advise_only: decisions are logged and printed, and nothing changes.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> AdaptiveBatchSize(max_local_size=0)
    Traceback (most recent call last):
    ValueError: max_local_size must be None or an int >= 1, got 0.
    """

    # None: LightningCLI cannot tell a default instance of a protocol from a dictionary
    policy: BatchSizePolicy | None = None
    learning_rate: RateRule = "optimal"
    max_local_size: int | None = None
    within_epoch: bool = False
    advise_only: bool = False

    @property
    def rule(self) -> BatchSizePolicy:
        """The policy, or the default one."""
        if self.policy is None:
            return TrackNoiseScale()
        return self.policy

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", self.rule)
        check_policy("policy", self.policy)
        check_rule(self.learning_rate)
        if self.max_local_size is not None:
            check_count("max_local_size", self.max_local_size, also="None or ")
        check_flag("within_epoch", self.within_epoch)
        check_flag("advise_only", self.advise_only)


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
