"""What an adaptive run knows between two events: one record, in checkpoints plain values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_noise.adapt.adaptive_summary import Period
from lightning_noise.adapt.size_plan import BatchPlan

VERSION = 1


class Mark(NamedTuple):
    """A moment of the run, by the optimizer steps and the examples used until then."""

    optimizer_steps: int
    examples: float


class Change(NamedTuple):
    """A plan that is decided and waits, with the factor on the learning rate that comes with it."""

    plan: BatchPlan
    rate_factor: float


class Sizes(NamedTuple):
    """The sizes of a run whose batch size adapts.

    Args:
        start: what the run began with, for which the learning rate was chosen.
        current: what steps use now.
        rate_factor: on the learning rate, from ``start`` to ``current``.
        following: what is decided and comes next.
        epoch_steps: optimizer steps of an epoch at ``start``; infinite where the data have no known
            end, ``None`` until an epoch at ``start`` has begun.
    """

    start: BatchPlan
    current: BatchPlan
    rate_factor: float = 1.0
    following: Change | None = None
    epoch_steps: float | None = None

    @property
    def loaded(self) -> BatchPlan:
        """The plan that loaders are prepared for: the following one where there is one."""
        return self.current if self.following is None else self.following.plan


class State(NamedTuple):
    """All that an :class:`Adaptation` knows.

    Args:
        sizes: ``None`` before the first fit, and where nothing is to change.
        decided: the last decision, in the user's unit.
        decided_at: optimizer steps at that time.
        epoch: the last one begun.
        period_start: when the present period began; ``None`` before the first fit.
        history: the periods that have ended.
    """

    sizes: Sizes | None = None
    decided: float | None = None
    decided_at: int = 0
    epoch: int = 0
    period_start: Mark | None = None
    history: tuple[Period, ...] = ()

    @property
    def following(self) -> Change | None:
        """What is decided and comes next."""
        return None if self.sizes is None else self.sizes.following


def to_plain(state: State) -> dict[str, Any]:
    """The state as plain Python values, as checkpoints keep it."""
    return {
        "version": VERSION,
        **_plain_sizes(state.sizes),
        "decided": state.decided,
        "decided_at": state.decided_at,
        "epoch": state.epoch,
        "mark": None if state.period_start is None else list(state.period_start),
        "history": [list(period) for period in state.history],
    }


def _plain_sizes(sizes: Sizes | None) -> dict[str, Any]:
    if sizes is None:
        nothing = dict.fromkeys(("start", "current", "following", "epoch_steps"))
        return {**nothing, "factors": [1.0, 1.0]}
    following = sizes.following
    next_factor = sizes.rate_factor if following is None else following.rate_factor
    return {
        "start": list(sizes.start),
        "current": list(sizes.current),
        "following": None if following is None else list(following.plan),
        "epoch_steps": sizes.epoch_steps,
        "factors": [sizes.rate_factor, next_factor],
    }


def from_plain(saved: Mapping[str, Any]) -> State:
    """Reads what :func:`to_plain` wrote.

    Raises:
        KeyError, TypeError: a part is missing or damaged.
    """
    mark = saved["mark"]
    return State(
        sizes=_read_sizes(saved),
        decided=saved["decided"],
        decided_at=saved["decided_at"],
        epoch=saved.get("epoch", 0),  # the first states had none
        period_start=None if mark is None else Mark(*mark),
        history=tuple(Period(*period) for period in saved["history"]),
    )


def _read_sizes(saved: Mapping[str, Any]) -> Sizes | None:
    start, current, following = (saved[name] for name in ("start", "current", "following"))
    rate_factor, next_factor = saved["factors"]
    epoch_steps = saved["epoch_steps"]
    if start is None or current is None:
        return None
    change = None if following is None else Change(BatchPlan(*following), next_factor)
    return Sizes(BatchPlan(*start), BatchPlan(*current), rate_factor, change, epoch_steps)
