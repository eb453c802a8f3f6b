"""A policy inside a run: what the run's first batch size and its data set add to the rule."""

from dataclasses import replace

from lightning_noise.adapt.policy import BatchSizePolicy, CautiousPolicy, Decision, keep
from lightning_noise.core.digits import in_digits
from lightning_noise.core.estimate import NoiseEstimate, repeats_dominate


def starting_from(policy: BatchSizePolicy, global_size: float) -> BatchSizePolicy:
    """The policy for a run that starts at ``global_size``, which replaces ``least=None``.

    A custom policy is returned unchanged.

    >>> from lightning_noise.adapt.policy import TrackNoiseScale
    >>> starting_from(TrackNoiseScale(shrink=True), 16).least
    16
    """
    if isinstance(policy, CautiousPolicy) and policy.least is None:
        return replace(policy, least=global_size)
    return policy


def trusting(policy: BatchSizePolicy, data_size: float | None) -> BatchSizePolicy:
    """The policy for a run over a finite data set, some of whose examples have been used again.

    It does not grow on a noise scale that says nothing about new data: one of the order of the data
    set, or one without an upper end (see :func:`~lightning_noise.core.estimate.repeats_dominate`).
    A custom policy is returned unchanged.

    Args:
        policy: what decides.
        data_size: examples of the data set; ``None`` while none has been used twice.

    >>> from lightning_noise.adapt.policy import TrackNoiseScale
    >>> unresolved = NoiseEstimate(None, 1900.0, None, 0.0, 100.0, False, 400, 180.0)
    >>> trusting(TrackNoiseScale(), 2000.0)(unresolved, 64).global_size
    64
    >>> trusting(TrackNoiseScale(), None)(unresolved, 64).global_size
    128
    """
    if data_size is None or not isinstance(policy, CautiousPolicy):
        return policy

    def decide(estimate: NoiseEstimate, global_size: float) -> Decision:
        decision = policy(estimate, global_size)
        if decision.global_size <= global_size or not repeats_dominate(estimate, data_size):
            return decision
        seen = policy.describe(estimate)
        data = f"the data set has {in_digits(data_size)} examples, and they repeat"
        return keep(global_size, f"{seen}, which says nothing about new data: {data}")

    return decide
