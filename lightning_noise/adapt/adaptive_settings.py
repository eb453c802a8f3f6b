"""The argument ``adaptive_batch_size``, checked where it is given."""

from dataclasses import dataclass

from lightning_noise.adapt.learning_rate import RateRule, check_rule
from lightning_noise.adapt.policy import BatchSizePolicy, TrackNoiseScale
from lightning_noise.core.checks import check_count, check_flag


@dataclass(frozen=True)
class AdaptiveBatchSize:
    """How the measured noise scale sets the batch size:
    ``GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(...))``.

    Args:
        policy: what global size next, and why: ``TrackNoiseScale()``, which ``None`` stands for,
            ``ExchangeRate(rate)``, or any callable ``(estimate, global_size) -> Decision``; its
            interval is a 99 % one. Called on rank 0 only.
        learning_rate: how the rate follows, by one factor from the starting size to the present
            one: "optimal" (the gain of the large-batch model, to the power 1 for SGD and 1/2 for
            Adam kinds), "linear", "sqrt", ``None`` (it does not), or a callable ``(old, new,
            estimate) -> factor``.
        max_local_size: largest micro-batch of a rank, in the loader's examples, beyond which
            ``accumulate_grad_batches`` takes over. ``None``: the loader's batch grows without a
            limit of its own.
        within_epoch: also changes the accumulation inside an epoch, for training in one long epoch.
        advise_only: decisions are logged and printed, and nothing changes.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> AdaptiveBatchSize(max_local_size=0)
    Traceback (most recent call last):
    ValueError: max_local_size must be None or an int >= 1, got 0.
    """

    policy: BatchSizePolicy | None = (
        None  # LightningCLI cannot tell a default instance of a protocol from a dictionary
    )
    learning_rate: RateRule = "optimal"
    max_local_size: int | None = None
    within_epoch: bool = False
    advise_only: bool = False

    @property
    def rule(self) -> BatchSizePolicy:
        """The policy, of which there always is one."""
        return TrackNoiseScale() if self.policy is None else self.policy

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", self.rule)
        check_policy("policy", self.policy)
        check_rule(self.learning_rate)
        if self.max_local_size is not None:
            check_count("max_local_size", self.max_local_size, also="None or ")
        check_flag("within_epoch", self.within_epoch)
        check_flag("advise_only", self.advise_only)


def check_policy(name: str, value: object) -> None:
    """Raises ``TypeError`` for what cannot be called as a policy, a class that was not instantiated
    among it.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            f"{name} must be a BatchSizePolicy, a callable (estimate, global_size) -> Decision "
            f"such as TrackNoiseScale(), "
            f"got {value!r}."
        )


def adaptive_settings(value: object) -> AdaptiveBatchSize | None:
    """The settings that the callback's argument stands for; ``None`` where the batch size is not to
    adapt.

    Raises:
        TypeError: it is none of False, True, a policy and an ``AdaptiveBatchSize``.

    >>> adaptive_settings(False) is None, adaptive_settings(True) == AdaptiveBatchSize()
    (True, True)
    """
    if isinstance(value, bool):
        return AdaptiveBatchSize() if value else None
    if isinstance(value, AdaptiveBatchSize):
        return value
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            "adaptive_batch_size must be a bool, a BatchSizePolicy such as TrackNoiseScale() or an "
            "AdaptiveBatchSize, "
            f"got {value!r}."
        )
    return AdaptiveBatchSize(value)
