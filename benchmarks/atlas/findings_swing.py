"""What the gradient of a run with a tuned learning rate is: that of the descent, or of a swing?

The tasks, batch sizes and tuned rates are those of ``sweep``, all with momentum 0.9 (SGD's, or β₁
of Adam). A row is one run: mean tr(Σ), mean |G|², and the mean of g(t)·g(t − k) for lags k, over
the last two thirds of its steps. One steep direction in which minibatch noise keeps the weights
swinging gives an autocorrelation of the gradient that depends on ε·h alone, the learning rate times
the curvature there (``autocorrelation``). It is fitted to the measured one. The swing is stable up
to ε·h = 2(1 + β), and where the best rate grows with B, that bounds the critical batch size from
above: B_stable = B·2(1 + β)/(ε·h).

Next byte was run after everything here had been chosen on the five other tasks.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.atlas.findings_statistics import Bounded, cell, jackknife
from benchmarks.gain.sweep import BENCHMARK as SWEEP
from benchmarks.gain.sweep import fixed_sizes
from benchmarks.gain.tasks import FIRST, Task, task_of
from benchmarks.gain.training import Smoothed, Stepper, stacked
from benchmarks.harness.rows import committed
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise import CriticalBatchSize

LAGS = (1, 2, 3, 4, 5, 7, 10)
MOMENTUM = 0.9
LIMIT = 2 * (1 + MOMENTUM)  # of ε·h, where the swing is stable
GRID = np.geomspace(0.003, 0.99 * LIMIT, 600)
COLD = 3  # the first of so many parts of a run is left out
HELD_OUT = "next byte"


class Row(NamedTuple):
    """One run. ``trace`` is tr(Σ), ``signal`` is |G|², ``lag_k`` the mean of g(t)·g(t − k)."""

    task: str
    size: int
    learning_rate: float
    seed: int
    steps: int
    trace: float
    signal: float
    lag_1: float
    lag_2: float
    lag_3: float
    lag_4: float
    lag_5: float
    lag_7: float
    lag_10: float


def products(task: Task, size: int, rate: float, seeds: Sequence[int]) -> np.ndarray:
    """tr(Σ), |G|² and the products of all lags, (steps, 2 + lags, seeds), up to the goal.

    |G|² is the product of the gradients of the two halves of a batch, without bias.
    """
    stepper = Stepper(task.optimizer, torch.stack([task.initial(seed) for seed in seeds]))
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    smoothed = Smoothed(task.window)
    past: list[torch.Tensor] = []
    found = []
    for step in range(1, task.most_examples // size + 1):
        batch = stacked([task.draw(generator, size) for generator in draws], 1)
        halves = tuple(part.view(2 * len(seeds), size // 2, *part.shape[2:]) for part in batch)
        flat = stepper.flat.repeat_interleave(2, 0)
        losses, gradients = task.gradients(flat, halves)
        first, second = gradients.view(len(seeds), 2, -1).unbind(1)
        gradient = (first + second) / 2
        row = [size * (first - second).square().sum(1) / 4, (first * second).sum(1)]
        for lag in LAGS:
            before = past[-lag] if lag <= len(past) else torch.full_like(gradient, math.nan)
            row.append((gradient * before).sum(1))
        found.append(torch.stack(row).double().numpy())
        past = [*past, gradient][-max(LAGS) :]
        loss = smoothed.update(losses.view(len(seeds), 2).mean(1), size)
        stepper.step(gradient, rate)
        if step * size >= task.window and bool((loss <= task.goal).all()):
            break
    return np.stack(found)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All seeds of a batch size at once."""
    for name, size in product(options.tasks, options.sizes):
        if (name, size) in done:
            continue
        rate = fixed_sizes(name).rates[size]
        seeds = range(options.seeds)
        found = products(task_of(name, tiny=options.tiny), size, rate, seeds)
        means = np.nanmean(found[len(found) // COLD :], axis=0)
        yield [
            Row(name, size, rate, seed, len(found), *map(float, means[:, seed])) for seed in seeds
        ]


def autocorrelation(swing: float, momentum: float = MOMENTUM) -> np.ndarray:
    """E[G(t)·g(t − k)]/E[G²] at all lags, in one direction that noise keeps swinging.

    With θ the distance to the minimum, h the curvature, G = hθ, and g = G + n the gradient of a
    batch with noise n: m' = βm + g and θ' = θ − εm'. G depends on earlier noise, since the weights
    do: a single step already answers it.

    Args:
        swing: ε·h, between 0 and 2(1 + β).
        momentum: β.

    >>> [round(float(value), 3) for value in autocorrelation(1.0, momentum=0.0)[:3]]
    [-1.0, -0.0, -0.0]
    """
    step = np.array([[1 - swing, -swing * momentum], [1.0, momentum]])  # of (hθ, m), in units of n
    noise = np.array([-swing, 1.0])
    variance = np.linalg.solve(np.eye(4) - np.kron(step, step), np.outer(noise, noise).flatten())
    covariance = variance.reshape(2, 2)
    values = []
    since = np.eye(2)
    for lag in range(1, max(LAGS) + 1):
        answer = (since @ noise)[0]  # of the weights to the noise of that batch
        since = step @ since
        if lag in LAGS:
            values.append(((since @ covariance)[0, 0] + answer) / covariance[0, 0])
    return np.array(values)


MODEL = np.stack([autocorrelation(swing) for swing in GRID])


class Swing(NamedTuple):
    """The fit to a measured autocorrelation, and how far it is off (rms)."""

    value: float
    misfit: float


def measured(rows: Sequence[Row]) -> np.ndarray:
    """The autocorrelation, from sums over runs."""
    sums = np.array([row[6:] for row in rows]).sum(0)
    return sums[1:] / sums[0]


def swing_of(rows: Sequence[Row]) -> Swing:
    """ε·h by least squares."""
    misfits = np.square(MODEL - measured(rows)).mean(1)
    best = int(misfits.argmin())
    return Swing(float(GRID[best]), float(math.sqrt(misfits[best])))


def b_simple(rows: Sequence[Row]) -> float:
    """tr(Σ)/|G|², from sums over runs."""
    return sum(row.trace for row in rows) / sum(row.signal for row in rows)


def b_stable(rows: Sequence[Row]) -> float:
    """The batch size at which a rate that grows with it would no longer be stable."""
    return rows[0].size * LIMIT / swing_of(rows).value


def between(rows: Sequence[Row]) -> float:
    """The geometric mean of both."""
    return math.sqrt(b_simple(rows) * b_stable(rows))


def bounded(rows: Sequence[Row], of: "Statistic") -> Bounded:
    """A statistic with its interval over seeds, in the logarithm."""

    def log_of(kept: Collection[int]) -> float:
        value = of([row for row in rows if row.seed in kept])
        return math.log(value) if value > 0 else math.nan

    found = jackknife(log_of, {row.seed for row in rows})
    return found if math.isnan(found.value) else found.exp()


Statistic = type(b_simple)
STATISTICS = {"B_simple": b_simple, "B_stable": b_stable, "geometric mean": between}


def b_crit(task: str) -> CriticalBatchSize:
    """Of the sweep's runs at fixed batch sizes."""
    runs = [row for row in committed(SWEEP) if (row.task, row.kind) == (task, "fixed")]
    reached = [row for row in runs if math.isfinite(row.steps)]
    return CriticalBatchSize.fit([row.size for row in reached], [row.steps for row in reached])


def by_case(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """The rows of each task and batch size, in the order of the tasks."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (FIRST.index(row.task), row.size)):
        found.setdefault((row.task, row.size), []).append(row)
    return found


def table(rows: Sequence[Row]) -> str:
    """Fit and statistics of every task and batch size, beside B_crit."""
    lines = []
    for (task, size), mine in by_case(rows).items():
        fit = swing_of(mine)
        values = [cell(bounded(mine, of), ".3g") for of in STATISTICS.values()]
        known = b_crit(task)
        crit = f"{known.b_crit:.3g} [{end(known.low)}, {end(known.high)}]"
        lines.append((task, str(size), f"{fit.value:.2g}", f"{fit.misfit:.2f}", *values, crit))
    head = ("task", "batch size", "ε·h", "misfit", *STATISTICS, "B_crit")
    return markdown(head, lines)


def end(value: float | None) -> str:
    """One end of an interval."""
    return MISSING if value is None else f"{value:.3g}"


def scores(rows: Sequence[Row]) -> str:
    """How far every statistic is from B_crit, by batch size."""
    lines = []
    cases = by_case(rows)
    for size in sorted({size for _, size in cases}):
        for name, of in STATISTICS.items():
            errors = {}
            for (task, at), mine in cases.items():
                if at == size:
                    errors[task] = math.log(of(mine) / b_crit(task).b_crit)
            chosen_on = [error for task, error in errors.items() if task != HELD_OUT]
            typical = math.exp(math.sqrt(np.square(chosen_on).mean())) if chosen_on else math.nan
            held = f"{math.exp(errors[HELD_OUT]):.2f}" if HELD_OUT in errors else MISSING
            lines.append((str(size), name, f"{typical:.2f}", held))
    head = ("batch size", "statistic", "typical factor off, five tasks", f"{HELD_OUT}, over B_crit")
    return markdown(head, lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The measured autocorrelation of every case with its fit, a panel for each task."""
    from matplotlib.figure import Figure

    cases = by_case(rows)
    tasks = list(dict.fromkeys(task for task, _ in cases))
    figure = Figure(figsize=(10, 6), dpi=110, layout="constrained")
    axes = figure.subplots(2, math.ceil(len(tasks) / 2), sharex=True, sharey=True, squeeze=False)
    for ax, task in zip(axes.flat, tasks, strict=False):
        for number, (size, mine) in enumerate(
            (at, r) for (name, at), r in cases.items() if name == task
        ):
            color = f"C{number}"
            ax.plot((0, *LAGS), (1, *measured(mine)), "o", color=color, markersize=4)
            fitted = autocorrelation(swing_of(mine).value)
            ax.plot((0, *LAGS), (1, *fitted), color=color, label=f"batch size {size}")
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set_title(task, fontsize=10)
        ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("lag, steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("autocorrelation of the gradient")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    tasks: tuple[str, ...] = option(FIRST, "tasks", extends=True, choices=FIRST)
    sizes: tuple[int, ...] = option((4, 16, 64), "batch sizes of the sweep", extends=True)
    seeds: int = option(4, "runs of every task and size", least=2)
    tiny: bool = option(False, "an easy goal")


BENCHMARK = Benchmark(
    name="atlas_swing",
    question="Is the gradient of a tuned run that of the descent, or of a swing?",
    about=__doc__,
    row=Row,
    key=("task", "size"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("teacher",), sizes=(4,), seeds=2, tiny=True),
    tables={"atlas swing": table, "atlas swing scores": scores},
    minutes=10,
    draw=draw,
    order=lambda row: (row.task, row.size, row.seed),
)
