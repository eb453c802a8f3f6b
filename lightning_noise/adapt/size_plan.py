"""From a wanted global size to one that loaders and ranks can do: local size times accumulation times ranks."""

import math
from typing import NamedTuple


class Plan(NamedTuple):
    """What one optimizer step consumes, in examples: ``local_size`` a micro-batch on a rank, ``accumulation`` micro-batches."""

    local_size: int
    accumulation: int
    world_size: int

    @property
    def global_size(self) -> int:
        """Examples of one optimizer step, all ranks together."""
        return self.local_size * self.accumulation * self.world_size

    def __str__(self) -> str:
        ranks = f"{self.world_size} rank{'' if self.world_size == 1 else 's'}"
        return f"local size {self.local_size} × accumulation {self.accumulation} × {ranks}"


class Bounds(NamedTuple):
    """What a plan must respect; ``None`` where there is no such bound.

    Args:
        max_local_size: largest micro-batch of a rank that its memory holds.
        epoch_examples: examples that one rank sees in an epoch; a step cannot use more.
        epoch_local: largest micro-batch that leaves an epoch as many batches as the trainer needs.
        epoch_batches: micro-batches of an epoch, where their number is fixed; no more can be accumulated.
        multiple: the micro-batch is a multiple of this, so that several loaders keep their proportions exactly.
    """

    max_local_size: int | None = None
    epoch_examples: int | None = None
    epoch_local: int | None = None
    epoch_batches: int | None = None
    multiple: int = 1

    @property
    def greatest_local(self) -> int | None:
        """The largest local size that all bounds allow."""
        most = min((b for b in (self.max_local_size, self.epoch_local) if b is not None), default=None)
        return most if most is None else max(1, most // self.multiple) * self.multiple

    @property
    def limits_local(self) -> bool:
        """Whether it is ``max_local_size`` that says how large a micro-batch may be."""
        return self.max_local_size is not None and self.max_local_size <= (self.epoch_local or self.max_local_size)


class Fitted(NamedTuple):
    """A plan and what had to be bent to reach it, in words; ``""`` where nothing was."""

    plan: Plan
    note: str


def plan_for(wanted: float, current: Plan, start: Plan, bounds: Bounds = Bounds()) -> Fitted:
    """The plan nearest to ``wanted`` examples a step that lies between it and the present one.

    The micro-batch grows first, at the accumulation that the run started with; where its bound is reached, accumulation takes
    over. It never falls below its start, where it may be what supplies the groups of gradients.

    >>> start = Plan(16, 1, 2)
    >>> plan_for(100, start, start).plan
    Plan(local_size=50, accumulation=1, world_size=2)
    >>> plan_for(200, start, start, Bounds(max_local_size=32))
    Fitted(plan=Plan(local_size=25, accumulation=4, world_size=2), note='max_local_size=32, so accumulation takes over')
    >>> plan_for(1000, start, start, Bounds(epoch_examples=60))
    Fitted(plan=Plan(local_size=60, accumulation=1, world_size=2), note='an epoch has no more than 120 examples')
    >>> plan_for(100, start, start, Bounds(multiple=8)).plan
    Plan(local_size=48, accumulation=1, world_size=2)
    """
    notes = []
    grow = wanted > current.global_size
    per_rank = wanted / start.world_size
    if bounds.epoch_examples is not None and per_rank > bounds.epoch_examples:
        per_rank = bounds.epoch_examples
        notes.append(f"an epoch has no more than {bounds.epoch_examples * start.world_size} examples")
    accumulation, most = start.accumulation, bounds.greatest_local
    if most is not None and per_rank / accumulation > most:
        accumulation = math.ceil(per_rank / most)
        why = f"max_local_size={bounds.max_local_size}" if bounds.limits_local else f"an epoch needs batches of at most {most}"
        notes.append(f"{why}, so accumulation takes over")
    if bounds.epoch_batches is not None and accumulation > bounds.epoch_batches:
        accumulation = max(start.accumulation, bounds.epoch_batches)
        notes.append(f"an epoch has no more than {bounds.epoch_batches} batches")
    local = _towards_current(per_rank / accumulation / bounds.multiple, grow) * bounds.multiple
    if grow and local * accumulation > per_rank:  # the least multiple is more than an equal share
        accumulation = max(start.accumulation, int(per_rank // local))
    if local * accumulation * start.world_size == 1:  # one example is one group of gradients: nothing could be measured
        local = 2
    plan = Plan(local if most is None else min(local, most), accumulation, start.world_size)
    return _fitted(plan, current, wanted, grow, notes)


def plan_within_epoch(wanted: float, current: Plan, start: Plan, bounds: Bounds = Bounds()) -> Fitted:
    """As :func:`plan_for`, where only the accumulation can change because the epoch's loaders are running.

    >>> plan_within_epoch(70, Plan(16, 1, 2), Plan(16, 1, 2)).plan.accumulation
    2
    """
    notes = []
    grow = wanted > current.global_size
    accumulation = wanted / (start.world_size * current.local_size)
    if bounds.epoch_examples is not None and accumulation * current.local_size > bounds.epoch_examples:
        accumulation = bounds.epoch_examples / current.local_size
        notes.append(f"an epoch has no more than {bounds.epoch_examples * start.world_size} examples")
    if bounds.epoch_batches is not None and accumulation > bounds.epoch_batches:
        accumulation = bounds.epoch_batches
        notes.append(f"an epoch has no more than {bounds.epoch_batches} batches")
    plan = current._replace(accumulation=max(start.accumulation, _towards_current(accumulation, grow)))
    return _fitted(plan, current, wanted, grow, notes)


def _fitted(plan: Plan, current: Plan, wanted: float, grow: bool, notes: list[str]) -> Fitted:
    """Never past the present plan: what rounds to nothing, or to the other direction, is no change."""
    if (plan.global_size <= current.global_size) == grow or plan.global_size == current.global_size:
        plan = current
    if plan.global_size != round(wanted) and not notes:
        notes.append(f"{wanted:.0f} rounded to what {plan.world_size} × {plan.accumulation} micro-batches can do")
    return Fitted(plan, ", ".join(notes))


def _towards_current(value: float, grow: bool) -> int:
    """Down when growing and up when shrinking, so that no limit of a policy is passed."""
    return max(1, math.floor(value + 1e-9) if grow else math.ceil(value - 1e-9))
