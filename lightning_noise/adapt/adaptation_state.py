"""What an adaptive run knows between two events: one record, as plain values in checkpoints."""

from collections.abc import Mapping
from itertools import starmap
from typing import Any, NamedTuple

from lightning_noise.adapt.adaptive_summary import Period
from lightning_noise.adapt.cadence import Cadence
from lightning_noise.adapt.guard import Guard
from lightning_noise.adapt.run_policy import Left
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.adapt.step_times import StepTimes

VERSION = 1


class Mark(NamedTuple):
    """A moment of the run, by the optimizer steps and the examples used until then."""

    optimizer_steps: int
    examples: float


class Change(NamedTuple):
    """A plan that is decided and not yet applied, with its factor on the learning rate."""

    plan: BatchPlan
    rate_factor: float


class Sizes(NamedTuple):
    """The sizes of a run whose batch size adapts.

    Args:
        start: what the run began with, for which the learning rate was chosen.
        current: what steps currently use.
        rate_factor: on the learning rate, from ``start`` to ``current``.
        following: what is decided and comes next.
        epoch_steps: optimizer steps of an epoch at ``start``; infinite where the data have no known
            end, ``None`` until an epoch at ``start`` has begun.
        previous: what was current before, as long as memory may turn out not to hold ``current``.
    """

    start: BatchPlan
    current: BatchPlan
    rate_factor: float = 1.0
    following: Change | None = None
    epoch_steps: float | None = None
    previous: Change | None = None

    @property
    def loaded(self) -> BatchPlan:
        """The plan that loaders are prepared for: the following one where there is one."""
        if self.following is None:
            return self.current
        return self.following.plan


class State(NamedTuple):
    """All that an :class:`Adaptation` knows.

    Args:
        sizes: ``None`` before the first fit, and where nothing is to change.
        decided: the last decision, in the user's unit.
        decided_at: optimizer steps at that time.
        epoch: the last one begun.
        period_start: when the current period began; ``None`` before the first fit.
        history: the periods that have ended.
        fits: the largest micro-batch to use, after memory did not hold a larger one.
        times: of optimizer steps, by global size in examples of the loader.
        left: the size that the run last went back from, in examples of the loader.
        guard: against a loss that jumps.
        cadence: how often steps are measured.
    """

    sizes: Sizes | None = None
    decided: float | None = None
    decided_at: int = 0
    epoch: int = 0
    period_start: Mark | None = None
    history: tuple[Period, ...] = ()
    fits: int | None = None
    times: StepTimes = StepTimes()
    left: Left | None = None
    guard: Guard = Guard()
    cadence: Cadence = Cadence()

    @property
    def rate_factor(self) -> float:
        """The current factor on the learning rate, within the bound of the guard."""
        if self.sizes is None:
            return 1.0
        return self.guard.bounded(self.sizes.rate_factor)

    @property
    def following(self) -> Change | None:
        """What is decided and comes next."""
        if self.sizes is None:
            return None
        return self.sizes.following


def to_plain(state: State) -> dict[str, Any]:
    """The state as plain Python values, as checkpoints keep it."""
    mark = None
    if state.period_start is not None:
        mark = list(state.period_start)
    return {
        "version": VERSION,
        **_plain_sizes(state.sizes),
        "decided": state.decided,
        "decided_at": state.decided_at,
        "epoch": state.epoch,
        "mark": mark,
        "history": list(map(list, state.history)),
        **_plain_memory(state),
        **_plain_watch(state),
    }


def _plain_watch(state: State) -> dict[str, Any]:
    """What step times and losses have shown; left out where there is nothing, as in old states."""
    plain: dict[str, Any] = {}
    if state.times != StepTimes():
        plain["times"] = [[size, list(found)] for size, found in state.times.durations.items()]
    if state.left is not None:
        plain["left"] = list(state.left)
    if state.guard != Guard():
        losses, *rest = state.guard
        plain["guard"] = [list(losses), *rest]
    if state.cadence != Cadence():
        every, ratio, measured, others = state.cadence
        plain["cadence"] = [every, ratio, list(measured), list(others)]
    return plain


def _plain_sizes(sizes: Sizes | None) -> dict[str, Any]:
    if sizes is None:
        nothing = dict.fromkeys(("start", "current", "following", "epoch_steps"))
        return {**nothing, "factors": [1.0, 1.0]}
    following = None
    next_factor = sizes.rate_factor
    if sizes.following is not None:
        following = list(sizes.following.plan)
        next_factor = sizes.following.rate_factor
    return {
        "start": list(sizes.start),
        "current": list(sizes.current),
        "following": following,
        "epoch_steps": sizes.epoch_steps,
        "factors": [sizes.rate_factor, next_factor],
    }


def _plain_memory(state: State) -> dict[str, Any]:
    """What is known of the memory; nothing in a state that never grew, as the first ones were."""
    plain: dict[str, Any] = {}
    if state.fits is not None:
        plain["fits"] = state.fits
    if state.sizes is not None and state.sizes.previous is not None:
        plan, rate_factor = state.sizes.previous
        plain["previous"] = [list(plan), rate_factor]
    return plain


def from_plain(saved: Mapping[str, Any]) -> State:
    """Reads what :func:`to_plain` wrote.

    Raises:
        KeyError, TypeError: a part is missing or damaged.
    """
    period_start = None
    if saved["mark"] is not None:
        period_start = Mark(*saved["mark"])
    return State(
        sizes=_read_sizes(saved),
        decided=saved["decided"],
        decided_at=saved["decided_at"],
        epoch=saved.get("epoch", 0),  # the first states had none
        period_start=period_start,
        history=tuple(starmap(Period, saved["history"])),
        fits=saved.get("fits"),
        times=_read_times(saved),
        left=_read_left(saved),
        guard=_read_guard(saved),
        cadence=_read_cadence(saved),
    )


def _read_times(saved: Mapping[str, Any]) -> StepTimes:
    return StepTimes({size: tuple(found) for size, found in saved.get("times", ())})


def _read_left(saved: Mapping[str, Any]) -> Left | None:
    if "left" not in saved:
        return None
    return Left(*saved["left"])


def _read_guard(saved: Mapping[str, Any]) -> Guard:
    if "guard" not in saved:
        return Guard()
    losses, *rest = saved["guard"]
    return Guard(tuple(losses), *rest)


def _read_cadence(saved: Mapping[str, Any]) -> Cadence:
    if "cadence" not in saved:
        return Cadence()
    every, ratio, measured, others = saved["cadence"]
    return Cadence(every, ratio, tuple(measured), tuple(others))


def _read_sizes(saved: Mapping[str, Any]) -> Sizes | None:
    start = saved["start"]
    current = saved["current"]
    following = saved["following"]
    rate_factor, next_factor = saved["factors"]
    epoch_steps = saved["epoch_steps"]
    if start is None or current is None:
        return None
    change = None
    if following is not None:
        change = Change(BatchPlan(*following), next_factor)
    previous = None
    if "previous" in saved:
        plan, factor = saved["previous"]
        previous = Change(BatchPlan(*plan), factor)
    return Sizes(
        start=BatchPlan(*start),
        current=BatchPlan(*current),
        rate_factor=rate_factor,
        following=change,
        epoch_steps=epoch_steps,
        previous=previous,
    )
