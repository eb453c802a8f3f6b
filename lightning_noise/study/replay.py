"""The result of a run for any goals and any earlier end, from the readings that it left. Pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_noise.report.terms import DIVERGED
from lightning_noise.study.goal import Goal, GoalOutcome, GoalWatch
from lightning_noise.study.task import Outcome, Record, Series

# What comes first of the events after one step, as in training
LOSS = 0
READING = 1


class _Event(NamedTuple):
    """Something that happened once ``time`` steps were done.

    ``value`` is that of the weights after ``step`` steps; None: the training loss was not finite.
    """

    time: int
    order: int
    step: int
    value: float | None


class _Followed(NamedTuple):
    """A goal after some of its events: the result, and when it was decided (infinite: not)."""

    outcome: GoalOutcome
    decided: float


def replay(
    record: Record,
    goals: Sequence[Goal],
    *,
    global_size: int,
    max_steps: int,
    budget_steps: int,
    early_stop: bool,
) -> Outcome | None:
    """What a run gives that is ended after ``max_steps``, or when its goals are decided.

    Args:
        record: what a run left that may have gone further, or not as far.
        goals: of the task.
        global_size: of the run.
        max_steps: after which the run is ended.
        budget_steps: that runs of this batch size may take.
        early_stop: the run also ends once every goal is reached or has diverged.

    Returns:
        The same as a run with these goals and this end; None where the record does not tell: the
        run was ended earlier, or did not read a goal's metric.

    Raises:
        ValueError: a goal already holds in the first reading.
    """
    followed = []
    for goal in goals:
        events = _events(record, goal)
        if events is None:
            return None
        followed.append(_follow(goal, events, max_steps, global_size))
    diverged = all(one.outcome.status == DIVERGED for one in followed)
    end = math.inf
    if early_stop or diverged:
        end = max(one.decided for one in followed)
    if math.isinf(end):
        if record.trained < max_steps and not record.ended:
            return None
        end = min(max_steps, record.trained)
    trained = int(end)
    found = {}
    for goal in goals:
        found[goal] = _follow(goal, _events(record, goal) or [], trained, global_size).outcome
    return Outcome(
        goals=found,
        pruned=trained < budget_steps and not diverged and not record.ended,
        trained=trained,
        noise=record.noise,
        warning=record.warning,
    )


def _events(record: Record, goal: Goal) -> list[_Event] | None:
    """What happened to a goal, in order; None where the run did not look."""
    readings = record.readings.get((goal.on, goal.metric))
    if readings is None:
        return None
    found = _of_readings(readings, goal.on)
    failed = record.loss_failed
    if failed is not None:
        found.append(_Event(failed, LOSS, failed, None))
    return sorted(found, key=_when)


def _of_readings(readings: Series, on: str) -> list[_Event]:
    later = int(on == "train")  # a step reads the weights before it
    found = []
    for step, value in zip(*readings, strict=True):
        found.append(_Event(step + later, READING, step, value))
    return found


def _when(event: _Event) -> tuple[int, int]:
    return event.time, event.order


def _follow(goal: Goal, events: Sequence[_Event], end: int, global_size: int) -> _Followed:
    watch = GoalWatch(goal)
    decided = math.inf
    for event in events:
        if event.time > end:
            break
        if event.value is None:
            watch.fail()
        else:
            watch.update(event.step, event.step * global_size, event.value)
        if watch.decided:
            decided = min(decided, event.time)
    return _Followed(watch.outcome(), decided)
