"""Steps to the goal at fixed batch sizes, each at its own tuned learning rate.

Small tasks, trained as plain loops, two of them to a later goal as well. At each size learning
rates on a grid (factor 2^½) are tried with tuning seeds, all in one stack of weights; the grid is
extended until the best rate has worse neighbours on both sides. The figures are from five other
seeds at the best rate. The other benchmarks on ``LeastTime`` take their learning rates from this
file.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch

from benchmarks.gain.tasks import TASKS, Task, task_of
from benchmarks.gain.training import Lanes, Smoothed
from benchmarks.harness.rows import committed
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import MISSING, markdown

GRID = 2**0.5
TUNING_SEEDS = {"sgd": (100, 101, 102), "adam": (100, 101)}
REACH = {"sgd": 3, "adam": 2}  # places on both sides of where the search begins
SEEDS = (0, 1, 2, 3, 4)


class Row(NamedTuple):
    """One run at a fixed size; ``steps`` is infinite where the goal was not reached.

    ``kind`` is "tuning" or "fixed": a figure of the tables.
    """

    task: str
    kind: str
    size: int
    rate: float
    seed: int
    steps: float


def steps_to_goal(
    task: Task,
    size: int,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    all_lanes: bool = False,
) -> torch.Tensor:
    """Steps (rates, seeds) to the goal; infinite for lanes that cannot be the best any more.

    Args:
        task: what is trained.
        size: batch size.
        rates: one per group of lanes.
        seeds: of weights and draws, the same for each rate.
        all_lanes: waits for every lane, up to ``most_examples``.
    """
    lanes, smoothed = Lanes(task, rates, seeds), Smoothed(task.window)
    reached = torch.full((len(rates) * len(seeds),), math.inf)
    for step in range(1, task.most_examples // size + 1):
        loss = smoothed.update(lanes.step(size), size)
        if step * size < task.window:
            continue
        newly = (loss <= task.goal) & reached.isinf()
        reached[newly] = step
        if step % 20 == 0 and _is_over(reached, step, len(rates), all_lanes=all_lanes):
            break
    return reached.view(len(rates), -1)


def _is_over(reached: torch.Tensor, step: int, rates: int, *, all_lanes: bool) -> bool:
    if all_lanes:
        return bool(reached.isfinite().all())
    so_far = reached.clamp(max=step).view(rates, -1).mean(1)
    complete = reached.view(rates, -1).isfinite().all(1)
    if not complete.any():
        return False
    return bool((so_far[~complete] > so_far[complete].min()).all())


def runs(task: Task, kind: str, size: int, rates: Sequence[float]) -> list[Row]:
    """A row for each rate and seed."""
    seeds = TUNING_SEEDS[task.optimizer] if kind == "tuning" else SEEDS
    reached = steps_to_goal(task, size, rates, seeds, all_lanes=kind == "fixed").tolist()
    rows = []
    for rate, of_seeds in zip(rates, reached, strict=True):
        for seed, steps in zip(seeds, of_seeds, strict=True):
            rows.append(Row(task.name, kind, size, rate, seed, steps))
    return rows


def tune(task: Task, size: int, centre: float) -> list[Row]:
    """What was tried at a size, until the best rate has worse neighbours on both sides."""
    rows: list[Row] = []
    scores: dict[int, float] = {}
    reach = REACH[task.optimizer]
    todo = list(range(-reach, reach + 1))
    while todo and len(scores) <= 20:
        tried = runs(task, "tuning", size, [centre * GRID**place for place in todo])
        rows += tried
        scores.update(zip(todo, mean_steps(tried, "rate").values(), strict=True))
        best = min(scores, key=scores.__getitem__)
        todo = []
        if best == min(scores):
            todo = [best - 2, best - 1]
        elif best == max(scores):
            todo = [best + 1, best + 2]
    return rows


def mean_steps(rows: Sequence[Row], column: str) -> dict[Any, float]:
    """Over the rows that have the same value in a column."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        found.setdefault(getattr(row, column), []).append(row.steps)
    return {value: statistics.fmean(steps) for value, steps in found.items()}


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Tunes and runs every size; the search begins beside the best rate of the size before."""
    for name in options.tasks:
        task = task_of(name, tiny=options.tiny)
        centre = task.rate
        for size in task.sizes:
            rows = list(done.get((name, size), ()))
            if not rows:
                rows = tune(task, size, centre)
                by_rate = mean_steps(rows, "rate")
                rows += runs(task, "fixed", size, [min(by_rate, key=by_rate.__getitem__)])
                yield rows
            centre = rows[-1].rate * GRID


class Fixed(NamedTuple):
    """The tuned rate and the mean steps to the goal of a task, by fixed size."""

    rates: dict[int, float]
    steps: dict[int, float]

    def time(self, size: int, rho: float) -> float:
        """Units of time to the goal, where a step takes ``rho + size`` of them."""
        return (rho + size) * self.steps[size]

    def best(self, rho: float, waste: float = math.inf) -> int:
        """The size of least time, of those that use at most ``1 + waste`` times the examples."""
        least = min(size * steps for size, steps in self.steps.items())
        allowed = []
        for size, steps in self.steps.items():
            if size * steps <= (1 + waste) * least:
                allowed.append(size)
        return min(allowed, key=lambda size: self.time(size, rho))


def fixed_runs(rows: Sequence[Row], task: str) -> Fixed:
    """The final runs of a task."""
    mine = [row for row in rows if (row.task, row.kind) == (task, "fixed")]
    return Fixed({row.size: row.rate for row in mine}, mean_steps(mine, "size"))


@cache
def fixed_sizes(task: str) -> Fixed:
    """Those of the committed file."""
    return fixed_runs(committed(BENCHMARK), task)


def start_of(task: str, rho: float) -> int:
    """The size that adaptive runs start from where a step takes ``rho + size`` units of time."""
    known = TASKS[task]
    if not known.below:
        return known.start
    return max(fixed_sizes(task).best(rho) // known.below, known.sizes[0])


def tuned_rate(task: str, size: int | None = None) -> float:
    """The learning rate of a size, by default the task's ``start``, in the committed file."""
    return fixed_sizes(task).rates[size or TASKS[task].start]


def table(rows: Sequence[Row]) -> str:
    """Mean steps to the goal, a column for each size."""
    sizes = sorted({row.size for row in rows})
    lines = []
    for task in TASKS:
        steps = fixed_runs(rows, task).steps
        if steps:
            cells = [f"{steps[size]:.0f}" if size in steps else MISSING for size in sizes]
            lines.append((task, *cells))
    return markdown(("task", *map(str, sizes)), lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(tuple(TASKS), "tasks", extends=True, choices=tuple(TASKS))
    tiny: bool = option(False, "two sizes to an easy goal")


BENCHMARK = Benchmark(
    name="sweep",
    question="How many steps do fixed sizes need to a goal, each at its own tuned rate?",
    about=__doc__,
    row=Row,
    key=("task", "size"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("teacher",), tiny=True),
    tables={"sweep": table},
    minutes=20,
)
