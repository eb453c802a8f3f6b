"""Seconds to a goal by the clock: the flag beside fixed sizes, all with Lightning's Trainer.

The tasks, the goals and the tuned rates of fixed sizes are those of ``adaptive``. Every run is a
fit of its own with a ``DataLoader``; only the adaptive ones have the callback, so that its cost
counts against it. They start at a size of 16, at the rate tuned for it or at half of it.
``LeastTime()`` is what the flag means; ``TrackNoiseScale()`` is what it meant before.

Runs take turns in random order, after one that is not counted.
"""

import itertools
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gain.adaptive import BENCHMARK as TUNED
from benchmarks.gain.adaptive import score
from benchmarks.gain.adaptive_runs import START
from benchmarks.gain.adaptive_runs import Run as TunedRun
from benchmarks.gain.adaptive_tasks import TASKS, TINY, Task
from benchmarks.gain.training import Smoothed
from benchmarks.harness.lightning_runs import fit
from benchmarks.harness.rows import committed
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise import AdaptiveBatchSize, GradientNoiseScale, LeastTime, TrackNoiseScale

SEEDS = (2, 3, 4, 5, 6)
FIXED = "fixed"
POLICIES = {
    "LeastTime()": (LeastTime(), 1.0),
    "LeastTime(), half the rate": (LeastTime(), 0.5),
    "TrackNoiseScale()": (TrackNoiseScale(), 1.0),
}


class Row(NamedTuple):
    """One run; ``seconds`` is infinite where the goal was not reached."""

    task: str
    variant: str
    size: int
    rate: float
    seed: int
    seconds: float
    steps: int
    examples: int
    last_size: int


class ToGoal(Callback):
    """Ends training at the goal of the smoothed training loss, and takes the time until then."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._smoothed = Smoothed(task.window)
        self._began = 0.0
        self.examples = 0
        self.last_size = 0
        self.seconds = math.inf

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        size = len(batch[0])
        self.examples += size
        self.last_size = size
        value = self._smoothed.update(float(outputs["loss"]), size)
        if value <= self._task.goal:
            self.seconds = time.perf_counter() - self._began
        is_over = not math.isfinite(value) or self.examples >= self._task.most_examples
        trainer.should_stop = math.isfinite(self.seconds) or is_over


def train(task: Task, variant: str, size: int, rate: float, seed: int) -> Row:
    """One run to the goal."""
    L.seed_everything(seed, verbose=False)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(*task.tensors()), batch_size=size, shuffle=True, generator=order
    )
    to_goal = ToGoal(task)
    callbacks: list[Callback] = [to_goal]
    if variant != FIXED:
        policy, _ = POLICIES[variant]
        settings = AdaptiveBatchSize(policy)
        callbacks.append(GradientNoiseScale(adaptive_batch_size=settings, verbose=False))
    module = task.make(rate)
    fit(module, loader, *callbacks, max_epochs=10_000)
    steps = module.trainer.global_step
    found = (to_goal.seconds, steps, to_goal.examples, to_goal.last_size)
    return Row(task.name, variant, size, rate, seed, *found)


@cache
def tuned_rates(name: str) -> dict[int, float]:
    """The learning rate of each fixed size, in the committed file of ``adaptive``."""
    fresh: dict[tuple[int, float], list[TunedRun]] = {}
    for run in committed(TUNED):
        if (run.task, run.kind) == (name, FIXED) and run.seed in SEEDS:
            fresh.setdefault((run.size, run.rate), []).append(run)
    rates: dict[int, float] = {}
    for size, rate in sorted(fresh, key=lambda key: score(fresh[key]), reverse=True):
        rates[size] = rate
    return rates


def cases(name: str, seeds: Sequence[int]) -> list[tuple[str, int, float, int]]:
    """Variant, size, rate and seed of every run of a task, in random order."""
    rates = tuned_rates(name)
    variants = [(FIXED, size, rate) for size, rate in rates.items()]
    for variant, (_, share) in POLICIES.items():
        variants.append((variant, START, rates[START] * share))
    runs = []
    for (variant, size, rate), seed in itertools.product(variants, seeds):
        runs.append((variant, size, rate, seed))
    random.Random(name).shuffle(runs)
    return runs


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every run by itself."""
    for name in options.tasks:
        task = TINY if options.tiny else TASKS[name]
        todo = []
        for variant, size, rate, seed in cases(name, options.seeds):
            if (name, variant, size, rate, seed) not in done:
                todo.append((variant, size, rate, seed))
        if options.tiny:
            todo = [case for case in todo if case[1] == START]
        if todo:
            train(task, *todo[0])  # not counted: the first fit of a process is slower
        for case in todo:
            yield [train(task, *case)]


def table(rows: Sequence[Row]) -> str:
    """Seconds to the goal, with standard errors, and relative to the fastest fixed size."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.task, row.variant != FIXED, row.size)):
        groups.setdefault((row.task, row.variant, row.size), []).append(row)
    best: dict[str, float] = {}
    for (task, variant, _), runs in groups.items():
        if variant == FIXED:
            best[task] = min(best.get(task, math.inf), mean_seconds(runs))
    lines = []
    for (task, variant, size), runs in groups.items():
        error = MISSING
        if len(runs) > 1 and math.isfinite(mean_seconds(runs)):
            error = f"{statistics.stdev(row.seconds for row in runs) / len(runs) ** 0.5:.2f}"
        steps = statistics.fmean(row.steps for row in runs)
        examples = statistics.fmean(row.examples for row in runs)
        seconds = mean_seconds(runs)
        name = f"fixed {size}" if variant == FIXED else variant
        of_best = seconds / best.get(task, math.nan)
        cells = (f"{seconds:.2f}", error, f"{of_best:.2f}", f"{steps:.0f}", f"{examples:.0f}")
        lines.append((task, name, str(len(runs)), *cells))
    head = ("task", "batch size", "runs", "seconds", "standard error", "of best fixed")
    return markdown((*head, "steps", "examples"), lines)


def mean_seconds(rows: Sequence[Row]) -> float:
    """Infinite where a run did not reach its goal."""
    return statistics.fmean(row.seconds for row in rows)


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(tuple(TASKS), "tasks", extends=True, choices=tuple(TASKS))
    seeds: tuple[int, ...] = option(SEEDS, "of weights and order", extends=True)
    tiny: bool = option(False, "an easy goal, from the start's size alone")


BENCHMARK = Benchmark(
    name="measured_clock",
    question="How many seconds does the flag take to a goal, beside fixed sizes?",
    about=__doc__,
    row=Row,
    key=("task", "variant", "size", "rate", "seed"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("digits",), seeds=(2,), tiny=True),
    tables={"measured clock": table},
    minutes=10,
    digits=6,
)
