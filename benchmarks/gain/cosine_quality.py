"""The final validation loss after fixed examples with a cosine schedule, adaptive and fixed.

All runs start at the tuned rate of the start's size (``sweep``) and use as many examples; the
schedule goes by examples. A step of B examples takes 64 + B units of time. A row has the mean
validation loss over 4096 fresh examples with its standard error, mean steps and mean time.
"""

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from benchmarks.gain.driven import Run
from benchmarks.gain.sweep import tuned_rate
from benchmarks.gain.tasks import TASKS, Task
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import table_of
from lightning_noise import AdaptiveBatchSize, LeastTime

NAMES = ("teacher", "noisy digits", "patches")
RHO = 64
SETTINGS = {
    "start": AdaptiveBatchSize(lambda _, size: (round(size), "keep: fixed")),
    "LeastTime()": AdaptiveBatchSize(),
    "LeastTime(0.25)": AdaptiveBatchSize(LeastTime(0.25)),
    "LeastTime(1.0)": AdaptiveBatchSize(LeastTime(1.0)),
}


class Row(NamedTuple):
    """Means over the runs of one task with one setting."""

    task: str
    settings: str
    runs: int
    loss: float
    standard_error: float
    steps: float
    time: float


def validation_loss(task: Task, flat: torch.Tensor) -> float:
    """On the same fresh draws for all runs."""
    draw = task.draw(torch.Generator().manual_seed(99), 4096)
    losses, _ = task.gradients(flat, tuple(part.unsqueeze(0) for part in draw))
    return float(losses[0])


def train(task: Task, settings: AdaptiveBatchSize, seed: int, examples: int) -> Run:
    """One run of so many examples."""
    rate = tuned_rate(task.name)
    run = Run(task, settings, RHO, rate, seed)
    while run.examples < examples:
        run.rate = rate * 0.5 * (1 + math.cos(math.pi * run.examples / examples))
        run.step()
    return run


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every task with every setting."""
    for name, label in itertools.product(options.tasks, SETTINGS):
        if (name, label) in done:
            continue
        task = TASKS[name]
        seeds = range(options.runs)
        runs = [train(task, SETTINGS[label], seed, options.examples) for seed in seeds]
        losses = [validation_loss(task, run.stepper.flat) for run in runs]
        error = statistics.stdev(losses) / options.runs**0.5
        steps = statistics.fmean(run.steps for run in runs)
        time = statistics.fmean(run.time for run in runs)
        yield [Row(name, label, options.runs, statistics.fmean(losses), error, steps, time)]


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    tasks: tuple[str, ...] = option(NAMES, "tasks", extends=True, choices=NAMES)
    runs: int = option(4, "of each task and setting, two for a standard error", least=2)
    examples: int = option(32_768, "in a run")


BENCHMARK = Benchmark(
    name="cosine_quality",
    question="What does LeastTime do to the final loss after fixed examples?",
    about=__doc__,
    row=Row,
    key=("task", "settings"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("teacher",), runs=2, examples=1024),
    tables={"cosine quality": table_of(loss=".5g", standard_error=".2g", steps=".0f", time=".0f")},
    minutes=3,
)
