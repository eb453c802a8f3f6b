"""Runs of a study that are not trained: records whose readings cross the goals where wanted."""

import math

from lightning_noise.study.plan import SizePlan
from lightning_noise.study.settings import Search
from lightning_noise.study.space import distributions
from lightning_noise.study.task import Record, Series

SPACE = {"learning_rate": (0.01, 1.0)}


def plan(goals, *, space=SPACE, size=32, budget_steps=1000, every=10, earlier=(), **changes):
    """The plan of a batch size."""
    before = tuple(distributions(one, size) for one in earlier)
    return SizePlan(
        global_size=size,
        space=distributions(space, size),
        goals=goals,
        search=Search(**changes),
        budget_steps=budget_steps,
        every=every,
        earlier=before,
    )


def record(steps, max_steps, every, *, whole=False, metrics=None):
    """Of a run that reads 2 until a metric falls to its target 1, after so many steps.

    Args:
        steps: metric → steps to its target, which is crossed in a straight line; None: never.
        max_steps: after which the run ends; it ends earlier where all targets were crossed.
        every: steps between validations.
        whole: it does not end earlier.
        metrics: those that are read; None: all.
    """
    end = max_steps
    if None not in steps.values() and not whole:
        end = min(max_steps, math.ceil(max(steps.values()) / every) * every)
    readings = {}
    for metric, crossing in steps.items():
        if metrics is not None and metric not in metrics:
            continue
        times, values = [0], [2.0]
        for time in range(every, end + 1, every):
            times.append(time)
            values.append(values[-1])
            if crossing is not None and time - every < crossing <= time:
                values[-1] = 2 - every / (crossing - (time - every))
        readings["validation", metric] = Series(tuple(times), tuple(values))
    return Record(
        trained=end,
        ended=False,
        readings=readings,
        loss_failed=None,
        noise={},
    )


def finish(plan, left_by, order):
    """Runs all, some at a time in any order; what was done, and the tasks in order of starting."""
    done, started, running = {}, [], []
    while True:
        waiting = [task for task in plan.next_tasks(done) if task not in running]
        running += waiting[: order.randint(1, 3)]
        if not running:
            return done, started
        task = running.pop(order.randrange(len(running)))
        started.append(task)
        assert started.count(task) == 1, f"{task.key} is open after it was done"
        done[task.key] = (*done.get(task.key, ()), left_by(task))
