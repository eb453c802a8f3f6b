"""What label smoothing, the size of the data set and the width do to the critical batch size.

An MLP learns scikit-learn's digits by SGD without momentum until it is wrong on at most 10 % of 397
digits that it is not trained on: steps to this goal at eight batch sizes and eleven learning rates,
sixteen seeds each. The rate of a batch size is chosen on eight seeds, and the steps are those of
the eight others; ``CriticalBatchSize.fit`` puts the hyperbola through them. Shallue et al. 2018
find that subsets of a data set scale much as all of it does, that models differ in how far they
scale, and that regularization may help more at some batch sizes than at others. All batch sizes
have the same rates to choose from, so that the chosen ones follow no rule beforehand.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.atlas import findings_rules
from benchmarks.atlas.findings_descent import PlainStepper
from benchmarks.atlas.findings_tasks import digits_mlp, drawn_from, split_flat_digits
from benchmarks.gain.tasks import Batch, Task, cross_entropy, linear
from benchmarks.gain.training import stacked
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import MISSING, markdown, number_cell
from lightning_noise import CriticalBatchSize
from lightning_noise.core.critical_advice import NoFitError

TRAINED = 1400
SPACING = 1.03  # a check is so many times later than the one before
PATIENCE = 1.5  # a rate that needs so many times the steps of another one is not the best


class Variant(NamedTuple):
    """What is trained."""

    smoothing: float = 0.0
    trained: int = TRAINED
    width: int = 64


VARIANTS = {
    "plain": Variant(),
    "label smoothing 0.1": Variant(smoothing=0.1),
    "half of the data": Variant(trained=TRAINED // 2),
    "a quarter of the data": Variant(trained=TRAINED // 4),
    "width 16": Variant(width=16),
    "width 256": Variant(width=256),
}


class Row(NamedTuple):
    """One run of a variant.

    Args:
        variant: name.
        global_size: batch size, in examples.
        learning_rate: constant.
        seed: of the weights and of the draws.
        steps: to the goal; NaN for a run that was ended before it.
    """

    variant: str
    global_size: int
    learning_rate: float
    seed: int
    steps: float


def logits_of(p: Sequence[Tensor], images: Tensor) -> Tensor:
    """Of the MLP, (lanes, examples, classes)."""
    return linear(linear(images, p[0], p[1]).relu(), p[2], p[3])


def smoothed_loss(p: list[Tensor], batch: Batch, *, smoothing: float) -> Tensor:
    """Cross entropy with the share ``smoothing`` of the target spread over all classes."""
    logits = logits_of(p, batch[0])
    uniform = (logits.logsumexp(-1) - logits.mean(-1)).mean(-1)
    return (1 - smoothing) * cross_entropy(logits, batch[1]) + smoothing * uniform


def task_of(variant: Variant) -> Task:
    """The MLP with the loss of a variant."""
    loss = partial(smoothed_loss, smoothing=variant.smoothing)
    return replace(digits_mlp(variant.width), loss=loss)


def wrong_share(task: Task, flat: Tensor, held: Batch) -> Tensor:
    """The share of held-out digits that each lane gets wrong, (lanes,)."""
    with torch.no_grad():
        logits = logits_of(task.split(flat), held[0].expand(len(flat), *held[0].shape))
    return (logits.argmax(-1) != held[1]).double().mean(-1)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """One batch size of one variant after the other."""
    for name in options.variants:
        for size in options.sizes:
            if (name, size) not in done:
                yield runs(name, size, options)


def runs(name: str, size: int, options: "Options") -> list[Row]:
    """All rates and seeds of a batch size, side by side."""
    variant = VARIANTS[name]
    data, held = split_flat_digits(TRAINED)
    data = tuple(part[: variant.trained] for part in data)
    task = task_of(variant)
    seeds, rates = range(options.seeds), len(options.rates)
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    stepper = PlainStepper(torch.stack([task.initial(seed) for seed in seeds]).repeat(rates, 1))
    each = torch.tensor(options.rates).repeat_interleave(len(seeds)).view(-1, 1)
    crossings = Crossings(rates * len(seeds), options.goal)
    check = 1
    for step in range(1, options.most_steps + 1):
        batches = [drawn_from(data, generator, size) for generator in draws]
        _, gradient = task.gradients(stepper.flat, stacked(batches, rates))
        stepper.step(gradient, each)
        if step < check:
            continue
        check = max(step + 1, math.ceil(SPACING * step))
        crossings.add(step, wrong_share(task, stepper.flat, held).numpy())
        slowest = crossings.steps.reshape(rates, -1).max(1)
        if step > PATIENCE * slowest.min():
            break
    found = []
    lanes = [(rate, seed) for rate in options.rates for seed in seeds]
    for (rate, seed), steps in zip(lanes, crossings.steps.tolist(), strict=True):
        found.append(Row(name, size, rate, seed, steps if math.isfinite(steps) else math.nan))
    return found


class Crossings:
    """When each lane first came down to the goal, on a straight line between two checks."""

    def __init__(self, lanes: int, goal: float) -> None:
        self.steps = np.full(lanes, math.inf)
        self._goal = goal
        self._before = (0, np.ones(lanes))

    def add(self, step: int, values: np.ndarray) -> None:
        """One check of all lanes; a value that is not a number is not below the goal."""
        start, earlier = self._before
        new = (values <= self._goal) & np.isinf(self.steps)
        drop = np.where(new, earlier - values, 1.0)
        share = (earlier - self._goal) / np.where(drop > 0, drop, 1.0)
        crossed = start + np.clip(share, 0, 1) * (step - start)
        self.steps = np.where(new, crossed, self.steps)
        self._before = (step, values)


def steps_of(rows: Sequence[Row]) -> tuple[float, float]:
    """(best rate, steps) of the rows of one batch size. Even seeds choose, odd seeds report the
    geometric mean; NaN where one of them did not reach the goal.
    """
    chosen, reported = {}, {}
    for rate in sorted({row.learning_rate for row in rows}):
        mine = [row for row in rows if row.learning_rate == rate]
        chosen[rate] = mean_log([row.steps for row in mine if row.seed % 2 == 0])
        reported[rate] = mean_log([row.steps for row in mine if row.seed % 2])
    finite = {rate: value for rate, value in chosen.items() if math.isfinite(value)}
    if not finite:
        return math.nan, math.nan
    best = min(finite, key=finite.__getitem__)
    return best, math.exp(reported[best])


def mean_log(values: Sequence[float]) -> float:
    """Mean of the logarithms; NaN where one is."""
    if not values:
        return math.nan
    return math.fsum(math.log(value) for value in values) / len(values)


def curves(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Steps by batch size, of each variant; sizes that did not reach the goal are absent."""
    found: dict[str, dict[int, float]] = {}
    for name in dict.fromkeys(row.variant for row in rows):
        mine = [row for row in rows if row.variant == name]
        steps = found.setdefault(name, {})
        for size in sorted({row.global_size for row in mine}):
            value = steps_of([row for row in mine if row.global_size == size])[1]
            if math.isfinite(value):
                steps[size] = value
    return found


def fit_of(steps: Mapping[int, float]) -> CriticalBatchSize | None:
    """The hyperbola; ``None`` where the steps do not have one."""
    try:
        return CriticalBatchSize.fit(list(steps), list(steps.values()))
    except NoFitError:
        return None


def table(rows: Sequence[Row]) -> str:
    """B_crit, minimum steps and minimum examples of each variant."""
    lines = []
    for name, steps in curves(rows).items():
        fit = fit_of(steps)
        sizes = f"{min(steps)}–{max(steps)} ({len(steps)})" if steps else MISSING
        if fit is None:
            lines.append((name, sizes, MISSING, MISSING, MISSING, MISSING))
            continue
        low, high = number_cell(fit.low), number_cell(fit.high)
        lines.append(
            (
                name,
                sizes,
                f"{fit.b_crit:.3g} [{low}, {high}]",
                f"{fit.s_min:.3g}",
                f"{fit.e_min:.3g}",
                f"{fit.residual:.2f}",
            )
        )
    head = (
        "variant",
        "batch sizes",
        "B_crit",
        "minimum steps",
        "minimum examples",
        "residual in ln S",
    )
    return markdown(head, lines)


def tuned(rows: Sequence[Row]) -> list[findings_rules.Row]:
    """The chosen rates of the variants that have a B_crit."""
    found = []
    for name, steps in curves(rows).items():
        fit = fit_of(steps)
        if fit is None:
            continue
        for size in steps:
            mine = [row for row in rows if (row.variant, row.global_size) == (name, size)]
            rate = steps_of(mine)[0]
            found.append(findings_rules.Row(name, findings_rules.OTHERS, size, rate, fit.b_crit))
    return found


def rate_table(rows: Sequence[Row]) -> str:
    """Exponents of the chosen rates below and above B_crit, all variants together."""
    return findings_rules.exponent_table(tuned(rows))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Steps to the goal against batch size, with the fits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), dpi=110, layout="constrained")
    ax = figure.subplots()
    for number, (name, steps) in enumerate(curves(rows).items()):
        fit = fit_of(steps)
        color = f"C{number}"
        ax.plot(list(steps), list(steps.values()), "o", color=color, markersize=4, label=name)
        if fit is not None:
            grid = np.geomspace(min(steps), max(steps), 60)
            ax.plot(grid, [fit.steps(size) for size in grid], color=color, linewidth=1)
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="batch size B, examples", ylabel="steps to 10 % wrong")
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    figure.savefig(path)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    variants: tuple[str, ...] = option(
        tuple(VARIANTS), "that are trained", extends=True, choices=tuple(VARIANTS)
    )
    sizes: tuple[int, ...] = option((4, 8, 16, 32, 64, 128, 256, 512), "batch sizes", extends=True)
    rates: tuple[float, ...] = option(
        (0.06, 0.09, 0.13, 0.18, 0.25, 0.36, 0.5, 0.7, 1.0, 1.4, 2.0), "learning rates"
    )
    seeds: int = option(16, "of every rate; even ones choose the rate, odd ones report", least=4)
    goal: float = option(0.1, "share of held-out digits that are wrong")
    most_steps: int = option(3000, "of a run")


BENCHMARK = Benchmark(
    name="atlas_variants",
    question="What do label smoothing, the data set's size and width do to B_crit?",
    about=__doc__,
    row=Row,
    key=("variant", "global_size"),
    measure=measure,
    options=Options(),
    quick=Options(variants=("plain",), sizes=(16, 64), rates=(0.25, 0.5), seeds=4, goal=0.4),
    tables={"atlas variants": table, "atlas variants rates": rate_table},
    minutes=6,
    draw=draw,
    order=lambda row: (
        list(VARIANTS).index(row.variant),
        row.global_size,
        row.learning_rate,
        row.seed,
    ),
)
