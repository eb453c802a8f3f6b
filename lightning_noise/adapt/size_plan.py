"""From a wanted global size to one that loaders and ranks can do.

A global size is a local size times accumulation times ranks.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

Number = TypeVar("Number", int, float)


class BatchPlan(NamedTuple):
    """What one optimizer step consumes, in examples of the loader.

    ``local_size`` is one micro-batch on one rank, ``accumulation`` the micro-batches of a step.
    """

    local_size: int
    accumulation: int
    world_size: int

    @property
    def global_size(self) -> int:
        """Examples of one optimizer step, all ranks together."""
        return self.local_size * self.accumulation * self.world_size

    def __str__(self) -> str:
        ranks = f"{self.world_size} ranks"
        if self.world_size == 1:
            ranks = "1 rank"
        return f"local size {self.local_size} × accumulation {self.accumulation} × {ranks}"


class Bounds(NamedTuple):
    """What a plan must respect; ``None`` where there is no such bound.

    Args:
        max_local_size: largest micro-batch of a rank that its memory holds.
        epoch_examples: examples that one rank sees in an epoch; a step cannot use more.
        epoch_local: largest micro-batch that leaves an epoch as many batches as the trainer needs.
        epoch_batches: micro-batches of an epoch, where their number is fixed; no more can be
            accumulated.
        multiple: the micro-batch is a multiple of this, so that several loaders keep their
            proportions exactly.
    """

    max_local_size: int | None = None
    epoch_examples: int | None = None
    epoch_local: int | None = None
    epoch_batches: int | None = None
    multiple: int = 1

    @property
    def greatest_local(self) -> int | None:
        """The largest local size that all bounds allow."""
        given = [bound for bound in (self.max_local_size, self.epoch_local) if bound is not None]
        if not given:
            return None
        multiples = min(given) // self.multiple
        return max(1, multiples) * self.multiple

    @property
    def limits_local(self) -> bool:
        """Whether ``max_local_size`` is the bound on the micro-batch that applies."""
        if self.max_local_size is None:
            return False
        return self.epoch_local is None or self.max_local_size <= self.epoch_local


def plan_for(
    wanted: float,
    current: BatchPlan,
    start: BatchPlan,
    bounds: Bounds = Bounds(),
) -> tuple[BatchPlan, str]:
    """The plan nearest to ``wanted`` examples per step that lies between it and the current one.

    The micro-batch grows first, at the accumulation that the run started with; where its bound is
    reached, accumulation takes over. It never falls below its start, where it may be what supplies
    the groups of gradients.

    Returns:
        The plan, and in words what kept it from ``wanted``; ``""`` where nothing did.

    >>> start = BatchPlan(16, 1, 2)
    >>> plan_for(100, start, start)
    (BatchPlan(local_size=50, accumulation=1, world_size=2), '')
    >>> plan, reason = plan_for(200, start, start, Bounds(max_local_size=32))
    >>> print(plan, reason, sep="; ")
    local size 25 × accumulation 4 × 2 ranks; max_local_size=32, so accumulation takes over
    >>> plan, reason = plan_for(1000, start, start, Bounds(epoch_examples=60))
    >>> print(plan, reason, sep="; ")
    local size 60 × accumulation 1 × 2 ranks; an epoch has no more than 120 examples
    >>> plan, reason = plan_for(100, start, start, Bounds(multiple=8))
    >>> plan.local_size
    48
    """
    grow = wanted > current.global_size
    per_rank, few_examples = _within_examples(
        wanted / start.world_size,
        start,
        bounds,
    )
    accumulation = start.accumulation
    takes_over = ""
    most = bounds.greatest_local
    if most is not None and per_rank / accumulation > most:
        accumulation = math.ceil(per_rank / most)
        takes_over = f"{_local_bound(bounds, most)}, so accumulation takes over"
    accumulation, few_batches = _within_batches(accumulation, bounds)
    accumulation = max(start.accumulation, accumulation)
    parts = per_rank / accumulation / bounds.multiple
    local_size = _towards_current(parts, grow=grow) * bounds.multiple
    if grow and local_size * accumulation > per_rank:
        # The least multiple is more than an equal share.
        fitting = int(per_rank // local_size)
        accumulation = max(start.accumulation, fitting)
    if local_size * accumulation * start.world_size == 1:
        local_size = 2  # one example is one group of gradients: nothing could be measured
    if most is not None:
        local_size = min(local_size, most)
    plan = BatchPlan(local_size, accumulation, start.world_size)
    return _settled(
        plan,
        current,
        wanted,
        (few_examples, takes_over, few_batches),
    )


def plan_within_epoch(
    wanted: float,
    current: BatchPlan,
    start: BatchPlan,
    bounds: Bounds = Bounds(),
) -> tuple[BatchPlan, str]:
    """As :func:`plan_for`, where only the accumulation can change: the epoch's loaders are running.

    >>> plan, reason = plan_within_epoch(70, BatchPlan(16, 1, 2), BatchPlan(16, 1, 2))
    >>> print(plan, reason, sep="; ")
    local size 16 × accumulation 2 × 2 ranks; 70 rounded to what 2 × 2 micro-batches can do
    """
    grow = wanted > current.global_size
    per_rank, few_examples = _within_examples(
        wanted / start.world_size,
        start,
        bounds,
    )
    micro_batches, few_batches = _within_batches(per_rank / current.local_size, bounds)
    rounded = _towards_current(micro_batches, grow=grow)
    accumulation = max(start.accumulation, rounded)
    plan = current._replace(accumulation=accumulation)
    return _settled(plan, current, wanted, (few_examples, few_batches))


def _local_bound(bounds: Bounds, most: int) -> str:
    if bounds.limits_local:
        return f"max_local_size={bounds.max_local_size}"
    return f"an epoch needs batches of at most {most}"


def _within_examples(per_rank: float, start: BatchPlan, bounds: Bounds) -> tuple[float, str]:
    """Limits the examples of a rank to those of an epoch; the limit in words where it applies."""
    if bounds.epoch_examples is None or per_rank <= bounds.epoch_examples:
        return per_rank, ""
    examples = bounds.epoch_examples * start.world_size
    return bounds.epoch_examples, f"an epoch has no more than {examples} examples"


def _within_batches(micro_batches: Number, bounds: Bounds) -> tuple[Number, str]:
    """Limits the micro-batches to those of an epoch; the limit in words where it applies."""
    if bounds.epoch_batches is None or micro_batches <= bounds.epoch_batches:
        return micro_batches, ""
    return bounds.epoch_batches, f"an epoch has no more than {bounds.epoch_batches} batches"


def _settled(
    plan: BatchPlan,
    current: BatchPlan,
    wanted: float,
    limits: Sequence[str],
) -> tuple[BatchPlan, str]:
    """Never past the current plan: a change that rounds to zero, or reverses, is no change.

    ``limits`` are the bounds that were met, in words. Where none was, rounding is the reason.
    """
    change = plan.global_size - current.global_size
    wanted_change = wanted - current.global_size
    if change * wanted_change <= 0:
        plan = current
    reasons = [limit for limit in limits if limit]
    if not reasons and plan.global_size != round(wanted):
        parts = f"{plan.world_size} × {plan.accumulation} micro-batches"
        reasons = [f"{wanted:.0f} rounded to what {parts} can do"]
    return plan, ", ".join(reasons)


def _towards_current(value: float, *, grow: bool) -> int:
    """Down when growing and up when shrinking, so that no limit of a policy is passed."""
    rounded = math.ceil(value - 1e-9)
    if grow:
        rounded = math.floor(value + 1e-9)
    return max(1, rounded)
