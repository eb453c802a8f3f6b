"""The best loss at every batch size, for a budget of steps and for a budget of examples.

An MLP with 64 hidden units learns 1400 of scikit-learn's digits by SGD with momentum 0.9. At every
batch size and every learning rate of a grid, sixteen seeds are trained to the largest budget, and
the loss on the 397 other digits is noted at each budget on the way. The rate that is best for a
budget is chosen on eight seeds; its loss is the mean of the eight others. Shallue et al. 2018
(figure 12) find that with a budget of steps larger batches are never worse, and with a budget of
epochs larger batches are worse beyond some size. Intervals are Student's over seeds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.atlas.findings_descent import losses_of
from benchmarks.atlas.findings_statistics import NOTHING, Bounded, cell
from benchmarks.atlas.findings_tasks import digits_mlp, drawn_from, split_flat_digits
from benchmarks.gain.training import Stepper, stacked
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise.core.student_t import student_t_quantile

TRAINED = 1400
RATES = (
    *(0.0025, 0.0035, 0.005, 0.007, 0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08),
    *(0.11, 0.16, 0.23, 0.32, 0.45, 0.64, 0.9, 1.28),
)
STEPS, EXAMPLES = "steps", "examples"


class Row(NamedTuple):
    """The loss of one run when a budget is used up.

    Args:
        global_size: batch size, in examples.
        learning_rate: constant.
        seed: of the weights and of the draws.
        unit: of the budget, "steps" or "examples".
        budget: in this unit.
        held_loss: on digits that are not trained on; NaN for a run that has diverged.
    """

    global_size: int
    learning_rate: float
    seed: int
    unit: str
    budget: int
    held_loss: float


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """One batch size after the other."""
    for size in options.sizes:
        if (size,) not in done:
            yield runs(size, options)


def runs(size: int, options: "Options") -> list[Row]:
    """All rates and seeds of a batch size, side by side."""
    trained, held = split_flat_digits(TRAINED)
    task = digits_mlp()
    seeds = range(options.seeds)
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    weights = torch.stack([task.initial(seed) for seed in seeds])
    stepper = Stepper(task.optimizer, weights.repeat(len(options.rates), 1))
    rates = torch.tensor(options.rates).repeat_interleave(len(seeds)).view(-1, 1)
    lanes = [(rate, seed) for rate in options.rates for seed in seeds]
    ends = budgets_of(size, options)
    rows = []
    for step in range(1, max(ends) + 1):
        batches = [drawn_from(trained, generator, size) for generator in draws]
        _, gradient = task.gradients(stepper.flat, stacked(batches, len(options.rates)))
        stepper.step(gradient, rates)
        if step not in ends:
            continue
        losses = losses_of(task, stepper.flat, held).tolist()
        for unit, budget in ends[step]:
            for (rate, seed), loss in zip(lanes, losses, strict=True):
                rows.append(Row(size, rate, seed, unit, budget, loss))
    return rows


def budgets_of(size: int, options: "Options") -> dict[int, list[tuple[str, int]]]:
    """The budgets that end at each step."""
    ends: dict[int, list[tuple[str, int]]] = {}
    for budget in options.steps:
        ends.setdefault(budget, []).append((STEPS, budget))
    for budget in options.examples:
        ends.setdefault(max(budget // size, 1), []).append((EXAMPLES, budget))
    return ends


class Best(NamedTuple):
    """The best rate for a budget, and the loss of seeds that did not choose it."""

    learning_rate: float
    loss: Bounded


def best(rows: Sequence[Row]) -> Best:
    """Of the rows of one batch size and budget. Even seeds choose, odd seeds report."""
    losses: dict[float, list[float]] = {}
    for row in rows:
        if row.seed % 2 == 0:
            losses.setdefault(row.learning_rate, []).append(row.held_loss)
    means = {rate: float(np.mean(values)) for rate, values in losses.items()}
    finite = {rate: mean for rate, mean in means.items() if math.isfinite(mean)}
    if not finite:
        return Best(math.nan, NOTHING)
    rate = min(finite, key=finite.__getitem__)
    return Best(
        rate, mean_of([r.held_loss for r in rows if r.learning_rate == rate and r.seed % 2])
    )


def mean_of(values: Sequence[float]) -> Bounded:
    """Mean with Student's interval."""
    if not values:
        return NOTHING
    mean = float(np.mean(values))
    if len(values) < 2:
        return Bounded(mean, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = student_t_quantile(0.975, len(values) - 1) * error
    return Bounded(mean, mean - half, mean + half)


def by_budget(rows: Sequence[Row]) -> dict[tuple[str, int], dict[int, Best]]:
    """The best of every budget and batch size."""
    groups: dict[tuple[str, int], dict[int, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row.global_size):
        sizes = groups.setdefault((row.unit, row.budget), {})
        sizes.setdefault(row.global_size, []).append(row)
    found = {}
    for key in sorted(groups, key=lambda key: (key[0] != STEPS, key[1])):
        found[key] = {size: best(mine) for size, mine in groups[key].items()}
    return found


def best_cell(one: Best) -> str:
    """The loss and its rate; a dash where no rate has one."""
    if math.isnan(one.learning_rate):
        return MISSING
    return f"{cell(one.loss, '.3f')}, ε = {one.learning_rate:g}"


def table(rows: Sequence[Row]) -> str:
    """Best held-out loss of every batch size, a column for each budget."""
    found = by_budget(rows)
    lines = []
    for size in sorted({row.global_size for row in rows}):
        cells = []
        for sizes in found.values():
            cells.append(best_cell(sizes.get(size, Best(math.nan, NOTHING))))
        lines.append((str(size), *cells))
    return markdown(("batch size", *(f"{budget} {unit}" for unit, budget in found)), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Best loss against batch size, a panel for each kind of budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for (unit, budget), sizes in by_budget(rows).items():
        ax = axes[0] if unit == STEPS else axes[1]
        x = list(sizes)
        y, low, high = np.array([one.loss for one in sizes.values()]).T
        label = f"{budget} {unit}"
        ax.errorbar(x, y, yerr=[y - low, high - y], fmt="o-", markersize=4, label=label)
    for ax, unit in zip(axes, (STEPS, EXAMPLES), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="batch size B, examples")
        ax.set_title(f"fixed number of {unit}", fontsize=10)
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=9)
    axes[0].set_ylabel("best held-out loss")
    figure.savefig(path)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    sizes: tuple[int, ...] = option((4, 8, 16, 32, 64, 128, 256, 512), "batch sizes", extends=True)
    rates: tuple[float, ...] = option(RATES, "learning rates")
    seeds: int = option(16, "of every rate; even ones choose the rate, odd ones report", least=4)
    steps: tuple[int, ...] = option((30, 100), "budgets in steps")
    examples: tuple[int, ...] = option((2048, 8192), "budgets in examples")


BENCHMARK = Benchmark(
    name="atlas_budgets",
    question="Which batch size is best for a budget of steps, and which for one of examples?",
    about=__doc__,
    row=Row,
    key=("global_size",),
    measure=measure,
    options=Options(),
    quick=Options(sizes=(16, 64), rates=(0.04, 0.16), seeds=4, steps=(10, 20), examples=(256, 512)),
    tables={"atlas budgets": table},
    minutes=2,
    draw=draw,
    order=lambda row: (row.global_size, row.unit, row.budget, row.learning_rate, row.seed),
)
