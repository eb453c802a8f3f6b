"""How often does the guard fire on healthy runs? Fixed sizes at their tuned rates.

No run diverges, so each jump that the guard sees is a false alarm. The rates are those of
``sweep``; weights and draws are others.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from benchmarks.gain.sweep import fixed_sizes
from benchmarks.gain.tasks import FIRST, TASKS
from benchmarks.gain.training import Lanes
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import table_of
from lightning_noise.adapt.guard import Guard

SEEDS = 4
SIZES = (4, 16, 64)


class Row(NamedTuple):
    """Runs of a task at one size; ``steps`` of all of them together."""

    task: str
    size: int
    runs: int
    steps: int
    false_alarms: int


def losses(name: str, size: int, steps: int) -> torch.Tensor:
    """Losses (steps, seeds) of a task."""
    rate = fixed_sizes(name).rates[size]
    lanes = Lanes(TASKS[name], [rate], range(SEEDS), draws_from=20_000)
    return torch.stack([lanes.step(size) for _ in range(steps)])


def false_alarms(run: Sequence[float]) -> int:
    """Jumps that the guard sees.

    Raises:
        ArithmeticError: the run diverged.
    """
    if not all(map(math.isfinite, run)):
        raise ArithmeticError("a run diverged, and its alarms are none that are false.")
    return Guard().after(run, 4.0).jumps


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every task at every size."""
    for name, size in itertools.product(options.tasks, SIZES):
        if (name, size) not in done:
            runs = losses(name, size, options.steps).T.tolist()
            alarms = sum(false_alarms(run) for run in runs)
            yield [Row(name, size, SEEDS, SEEDS * options.steps, alarms)]


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(FIRST, "tasks", extends=True, choices=FIRST)
    steps: int = option(3000, "in a run")


BENCHMARK = Benchmark(
    name="guard_rate",
    question="How often does the guard fire on healthy runs?",
    about=__doc__,
    row=Row,
    key=("task", "size"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("teacher",), steps=100),
    tables={"guard rate": table_of()},
    minutes=2,
)
