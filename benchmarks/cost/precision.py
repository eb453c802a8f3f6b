"""What precision does a measurement have for its cost? Seconds of overhead until the 95 % interval
of B_simple is ±20 %.

The goal is (high − low)/2 ≤ 0.2 B_simple, with both ends. Three models on real data are trained for
50 steps and then held (learning rate 0), and every step has a batch drawn with replacement. So
gradients are stationary, steps are independent, and all variants of a series see the same batches.

- *steps*: the interval of the plain average over all measured steps, at 8, 11, 16, 23, … steps, up
  to the first that has the goal; between two of these the logarithms are interpolated. Where the
  goal is not reached in ``most_steps``, the number follows from half-width ∝ 1/√steps, marked by ≈.
  The figure is the median over ``seeds`` series of batches, with their range. Monitor.estimate()
  reports the same interval, unless one of its shorter windows contradicts the average by chance.
- *seconds*: what a measured step adds to the same step without the measurement, outside any
  trainer, on one thread, read (``flush``) after every measured step, which a real run does every 50
  steps. In every round each variant is visited once, in random order; a visit alternates plain
  steps, measured ones, and cycles of four steps of which one is measured, in random order. Figures
  are medians over the rounds, of differences within a visit. A step that is not measured has no
  hooks, so it adds what its calls of the monitor take, which are timed by themselves, the clocks
  included: an upper bound.
- *overhead until ±20 %*: measured steps × what a cycle of one, three or ten steps adds, of which
  one is measured. The interval is that of the rounds; the steps' range stands in the other table.

*micro_batches, K* measures gradient accumulation over K micro-batches that is there anyway.
*split=K* divides the batch for the measurement alone: the same measurement, and every step pays for
K smaller passes, measured or not. What the ``Trainer`` adds per batch is not in it.

Two probes need processes and are left out. ``ranks`` sees as many groups as there are ranks, and
``shards`` as many as ranks × micro-batches: they need the steps of as many micro-batches.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.cost.precision_loop import VARIANTS, Measured, Plain, Variant
from benchmarks.cost.precision_report import cost_table, draw, overhead_table, steps_table
from benchmarks.cost.precision_rows import (
    ACCUMULATED,
    AMONG_OTHERS,
    FIRST,
    GOAL,
    LATER,
    MEASURED,
    PLAIN,
    Row,
)
from benchmarks.cost.precision_tasks import SIZES, TASKS, Batch, Task
from benchmarks.harness.rounds import Stopwatch, shuffled
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import estimate_from

FIRST_POINT = 8
CYCLE = 4
PARTS = ("steps", "seconds")


# ---- steps --------------------------------------------------------------------------------------


def grid(most_steps: int) -> list[int]:
    """8, 11, 16, 23, … up to ``most_steps``.

    >>> grid(64)
    [8, 11, 16, 23, 32, 45, 64]
    """
    found = []
    while not found or found[-1] < most_steps:
        found.append(min(most_steps, round(FIRST_POINT * 2 ** (len(found) / 2))))
    return found


def intervals(task: Task, variant: Variant, seed: int, most_steps: int) -> list[Row]:
    """The interval at the steps of the grid, up to the first that has the goal."""
    loop = Measured(task, variant, seed=seed)
    average = RunningAverage(1.0)
    loop.monitor.observe(lambda reading: average.update(reading.moments))
    generator = torch.Generator().manual_seed(1 + seed)  # 0 has trained the model
    rows: list[Row] = []
    steps = 0
    with loop.watching():
        for stop in grid(most_steps):
            for _ in range(stop - steps):
                loop.step(task.batch(generator))
            steps = stop
            found = estimate_from(average)
            row = Row("steps", task.name, variant.name, seed, average.steps)
            row = row._replace(noise_scale=found.noise_scale, low=found.low, high=found.high)
            rows.append(row)
            if row.half_width <= GOAL:
                break
    return rows


# ---- seconds ------------------------------------------------------------------------------------


class Visit:
    """The loops of a variant, timed step by step beside each other."""

    def __init__(self, task: Task, variant: Variant) -> None:
        self._task = task
        self._plain = Plain(task, 1)
        self._accumulated = Plain(task, variant.parts)
        self._measured = Measured(task, variant)
        self._among_others = Measured(task, variant, every=CYCLE)
        self._kinds = [PLAIN, MEASURED, AMONG_OTHERS]
        if variant.parts > 1:
            self._kinds.append(ACCUMULATED)
        self._watches: dict[str, Stopwatch] = {}

    def times(self, seed: int, repeats: int) -> dict[str, Stopwatch]:
        """By kind of step, after an untimed repeat."""
        chance = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        with self._measured.watching(), self._among_others.watching():
            for number in range(1 + repeats):
                if number <= 1:
                    kinds = (*self._kinds, FIRST, LATER)
                    self._watches = {kind: Stopwatch() for kind in kinds}
                batch = self._task.batch(generator)
                for kind in chance.sample(self._kinds, len(self._kinds)):
                    self._take(kind, batch)
        return self._watches

    def _take(self, kind: str, batch: Batch) -> None:
        loops = {
            PLAIN: self._plain,
            ACCUMULATED: self._accumulated,
            MEASURED: self._measured,
            AMONG_OTHERS: self._among_others,
        }
        with self._watches[kind].running():
            loops[kind].step(batch)
        if kind == AMONG_OTHERS:
            self._among_others.step(batch, self._watches[FIRST])
            for _ in range(CYCLE - 2):
                self._among_others.step(batch, self._watches[LATER])


def visit(task: Task, variant: Variant, number: int, place: int, repeats: int) -> list[Row]:
    """All kinds of steps of a variant in a round."""
    watches = Visit(task, variant).times(number, repeats)
    rows = []
    for kind, watch in watches.items():
        each = watch.per_step(repeats * (CYCLE - 2) if kind == LATER else repeats)
        row = Row("seconds", task.name, variant.name, number, kind=kind, place=place)
        rows.append(row._replace(**each._asdict()))
    return rows


# ---- the benchmark ------------------------------------------------------------------------------


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Series after series, then round after round, of all models each."""
    tasks = [SIZES[options.size][key] for key in options.models]
    if "steps" in options.parts:
        for seed in range(options.seeds):
            for task in tasks:
                if ("steps", task.name, seed) not in done:
                    yield [
                        row
                        for variant in VARIANTS
                        for row in intervals(task, variant, seed, options.most_steps)
                    ]
    if "seconds" in options.parts:
        for number in range(options.rounds):
            for task in tasks:
                if ("seconds", task.name, number) not in done:
                    order = enumerate(shuffled(VARIANTS, number))
                    yield [
                        row
                        for place, variant in order
                        for row in visit(task, variant, number, place, options.repeats)
                    ]


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    """What ``run`` takes."""

    parts: tuple[str, ...] = option(PARTS, "to measure", extends=True, choices=PARTS)
    models: tuple[str, ...] = option(TASKS, "to measure", extends=True, choices=TASKS)
    seeds: int = option(7, "series of batches", extends=True)
    most_steps: int = option(512, "of a series")
    rounds: int = option(20, "rounds of all variants", extends=True)
    repeats: int = option(6, "steps of every kind in a visit")
    size: str = option("whole", "of the models", choices=tuple(SIZES))


BENCHMARK = Benchmark(
    name="precision",
    question="What does a precise B_simple cost: how much overhead until ±20 %?",
    about=__doc__,
    row=Row,
    key=("part", "model", "round"),
    measure=measure,
    options=Options(),
    quick=Options(
        models=("mlp", "resnet"), seeds=1, most_steps=11, rounds=1, repeats=1, size="tiny"
    ),
    tables={
        "precision": overhead_table,
        "precision steps": steps_table,
        "precision cost": cost_table,
    },
    minutes=18,
    draw=draw,
)
