"""Noise scales along runs of every task of the atlas, at about its critical batch size.

A task is trained at the size of its study that lies nearest to the critical batch size of the late
goal, with the best rate of that size, from seeds that chose nothing. Every step is made of 8
micro-batches, of which ``GradientNoiseScale`` reads the moments in several geometries: in every
step, or in every second one where a task says so. (The Hessian is that of the last micro-batch, and
the first step has no metric of an optimizer.) The stretch before each goal is cut into 10 bins of
steps, and a row holds the sums over a bin: signal and noise are unbiased estimates of |G|² and
tr(Σ) in one step. Noise scales are ratios of such sums over seeds, not means of ratios.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.atlas import atlas_study, curves_report, figures, report
from benchmarks.atlas.noise_run import MICRO_BATCHES, Measured, run
from benchmarks.atlas.task import LATE, Task
from benchmarks.atlas.tasks import TASKS
from benchmarks.harness.rows import committed
from benchmarks.harness.spec import Benchmark, Done, option
from lightning_noise import Moments
from lightning_noise.report.terms import REACHED
from lightning_noise.study import StudyResult

FIRST_SEED = 1001
BINS = 10  # of the stretch before each goal


class Row(NamedTuple):
    """A bin of steps of one run, in one geometry.

    Args:
        goal: that the stretch of the bin leads to.
        bin: from 0; a short stretch leaves some out.
        status: of the goal in this run.
        last_step: at the end of the bin.
        steps: in the bin.
        measured: steps of them with a measurement; the sums are over these.
        loss: mean training loss of the steps.
        signal, noise: sums of the unbiased |G|² and tr(Σ).
        signal_sq, noise_sq, cross: sums of their squares and of their product.
    """

    task: str
    seed: int
    global_size: int
    learning_rate: float
    geometry: str
    goal: str
    bin: int
    status: str
    crossed: float | None
    last_step: int
    steps: int
    measured: int
    loss: float
    signal: float
    noise: float
    signal_sq: float
    noise_sq: float
    cross: float


class Setting(NamedTuple):
    """Where a task is measured."""

    global_size: int
    learning_rate: float


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All rows of a run at a time."""
    studied = committed(atlas_study.BENCHMARK)
    for name in options.tasks:
        seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
        missing = [seed for seed in seeds if (name, seed) not in done]
        if not missing:
            continue
        setting = setting_of(atlas_study.result_of(studied, name))
        for seed in missing:
            found = run(TASKS[name], *setting, seed)
            yield rows_of(TASKS[name], setting, seed, found)


def setting_of(result: StudyResult) -> Setting:
    """The size nearest to the critical one that can be divided, and its best rate."""
    rates = result.learning_rates(LATE)
    steps = result.steps(LATE)
    sizes = [size for size in steps if size % MICRO_BATCHES == 0 and size in rates]
    b_crit = result.fits[LATE].b_crit
    nearest = min(sizes, key=lambda size: abs(math.log(size / b_crit)))
    return Setting(int(nearest), rates[nearest])


def rows_of(task: Task, setting: Setting, seed: int, found: Measured) -> list[Row]:
    """The bins of a run, goal after goal; what follows the last goal is left out."""
    rows = []
    start = 0
    for goal in task.all_goals:
        outcome = found.outcomes[goal.name]
        end = len(found.losses)
        if outcome.steps is not None:
            end = min(math.ceil(outcome.steps), end)
        for number, steps in enumerate(cut(start, end)):
            if not steps:
                continue
            for geometry, moments in found.moments.items():
                row = Row(
                    task=task.name,
                    seed=seed,
                    global_size=setting.global_size,
                    learning_rate=setting.learning_rate,
                    geometry=geometry,
                    goal=goal.name,
                    bin=number,
                    status=outcome.status,
                    crossed=outcome.steps,
                    last_step=steps[-1] + 1,
                    steps=len(steps),
                    loss=math.fsum(found.losses[step] for step in steps) / len(steps),
                    **sums(moments, steps),
                )
                rows.append(row)
        if outcome.status != REACHED:
            break
        start = end
    return rows


def cut(start: int, end: int) -> list[range]:
    """The steps from ``start`` to before ``end`` in BINS parts, of which some may be empty.

    >>> cut(0, 3)[:4]
    [range(0, 0), range(0, 0), range(0, 0), range(0, 1)]
    """
    edges = [start + (end - start) * number // BINS for number in range(BINS + 1)]
    return [range(low, high) for low, high in pairwise(edges)]


def sums(moments: Mapping[int, Moments], steps: range) -> dict[str, float]:
    """Over the measured ones of some steps."""
    measured = [moments[step] for step in steps if step in moments]
    pairs = [(one.signal, one.noise) for one in measured]
    return {
        "measured": len(pairs),
        "signal": math.fsum(signal for signal, _ in pairs),
        "noise": math.fsum(noise for _, noise in pairs),
        "signal_sq": math.fsum(signal * signal for signal, _ in pairs),
        "noise_sq": math.fsum(noise * noise for _, noise in pairs),
        "cross": math.fsum(signal * noise for signal, noise in pairs),
    }


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(
        tuple(TASKS), "tasks of the atlas", extends=True, choices=tuple(TASKS)
    )
    seeds: int = option(5, "runs of each task", extends=True)


def draw(rows: Sequence[Row], path: Path) -> None:
    """All tasks in one figure, and the curves of each beside it."""
    figures.draw(report.all_cases(rows), path)


BENCHMARK = Benchmark(
    name="atlas_noise",
    question="Which cheap statistic of the gradients of one run predicts the critical batch size?",
    about=__doc__,
    row=Row,
    key=("task", "seed"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("digits_mlp_sgd",), seeds=1),
    tables={
        "atlas": report.main_table,
        "atlas geometries": report.geometry_table,
        "atlas statistics": report.statistics_table,
        "atlas optimizers": report.kind_table,
        "atlas prediction": report.prediction_table,
        "atlas curves": curves_report.curve_table,
        "atlas findings": curves_report.findings_table,
    },
    minutes=15,
    order=lambda row: (list(TASKS).index(row.task), row.seed),
    draw=draw,
)
