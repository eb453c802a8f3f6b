"""Do adaptive runs reach the goal at the highest learning rate at which the start does?

The edge is the highest rate, on a grid with factor 2^½ from the tuned one up to four times as much,
at which the fixed start reaches its goal with all of five seeds within 100 000 examples. Adaptive
runs start there, with 20 seeds. A step of B examples takes 64 + B units of time.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.gain.driven import Run
from benchmarks.gain.least_time import SETTINGS
from benchmarks.gain.sweep import GRID, SEEDS, steps_to_goal, tuned_rate
from benchmarks.gain.tasks import Task, task_of
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import table_of

NAMES = ("teacher", "digits CNN")
VARIANTS = ("middle", "optimal")
SHARES = tuple(GRID**place for place in range(5))  # of the tuned rate
RHO = 64


class Row(NamedTuple):
    """Adaptive runs of a task; times of all, also of those that missed the goal."""

    task: str
    variant: str
    of_tuned: float
    runs: int
    missed: int
    jumps: int
    mean_time: float
    worst_time: float


def edge(task: Task) -> float:
    """The highest share of the tuned rate at which all seeds of the start reach the goal."""
    short = replace(task, most_examples=min(100_000, task.most_examples))
    rates = [tuned_rate(task.name) * share for share in SHARES]
    reached = steps_to_goal(short, task.start, rates, SEEDS, all_lanes=True)
    good = reached.isfinite().all(1).tolist()
    return max(share for share, all_reached in zip(SHARES, good, strict=True) if all_reached)


def from_the_edge(task: Task, variant: str, share: float, seeds: int) -> Row:
    """All adaptive runs with one variant."""
    missed = jumps = 0
    times = []
    for seed in range(seeds):
        run = Run(task, SETTINGS[variant], RHO, tuned_rate(task.name) * share, seed)
        missed += not run.to_goal()
        jumps += run.jumps
        times.append(run.time)
    mean = statistics.fmean(times)
    return Row(task.name, variant, share, seeds, missed, jumps, mean, max(times))


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """The edge of every task, and the runs from there."""
    for name in options.tasks:
        if (name,) not in done:
            task = task_of(name, tiny=options.tiny)
            share = edge(task)
            yield [from_the_edge(task, variant, share, options.runs) for variant in VARIANTS]


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(NAMES, "tasks", extends=True, choices=NAMES)
    runs: int = option(20, "seeds of each variant")
    tiny: bool = option(False, "an easy goal")


BENCHMARK = Benchmark(
    name="edge",
    question="Do adaptive runs reach the goal at the highest learning rate of the start?",
    about=__doc__,
    row=Row,
    key=("task",),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("teacher",), runs=1, tiny=True),
    tables={"edge": table_of(of_tuned=".4g", mean_time=".0f", worst_time=".0f")},
    minutes=2,
)
