"""How B_simple grows while the training loss falls.

Three tasks are trained at a constant rate: an MLP on digits with SGD, an autoencoder of patches of
photographs with Adam, and a transformer that predicts the next byte, with Adam. |G|² and tr(Σ) are
measured on fresh examples at checks that are 5 % of the steps apart and pooled in bins of the
training loss half an octave wide. Intervals are jackknives over seeds. An example of the next byte
is a window of 16 tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.atlas.findings_descent import (
    Row,
    Setting,
    b_simple,
    descend,
    log_b_simple,
)
from benchmarks.atlas.findings_statistics import Bounded, cell, jackknife, slopes
from benchmarks.atlas.findings_tasks import digits_mlp, fixed_draw, flat_digits
from benchmarks.gain.tasks import TASKS
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import markdown, number_cell

NAMES = ("digits MLP", "patches", "next byte")


def setting_of(name: str) -> Setting:
    """How a task is trained."""
    if name == "digits MLP":
        return Setting(
            task=digits_mlp(),
            held=flat_digits(),
            optimizer="plain",
            learning_rate=0.16,
            global_size=32,
            lowest=0.044,
            most_steps=6000,
        )
    if name == "patches":
        return Setting(
            task=TASKS[name],
            held=fixed_draw(name),
            optimizer="adam",
            learning_rate=0.004,
            global_size=64,
            lowest=0.044,
            most_steps=4000,
        )
    return Setting(
        task=TASKS[name],
        held=fixed_draw(name, 256),
        optimizer="adam",
        learning_rate=0.004,
        global_size=32,
        lowest=2.0,
        most_steps=2000,
        groups=16,
        group_size=16,
    )


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """One task after the other."""
    for name in options.tasks:
        if (name,) in done:
            continue
        setting = setting_of(name)
        setting = replace(setting, most_steps=min(setting.most_steps, options.most_steps))
        yield descend(setting, range(options.seeds))


def by_level(rows: Sequence[Row], name: str) -> dict[float, list[Row]]:
    """The rows of a task in the bins that all seeds have been in, from high to low loss."""
    mine = [row for row in rows if row.task == name]
    seeds = {row.seed for row in mine}
    found: dict[float, list[Row]] = {}
    for row in sorted(mine, key=lambda row: -row.level):
        found.setdefault(row.level, []).append(row)
    return {level: group for level, group in found.items() if {r.seed for r in group} == seeds}


def growth(first: Sequence[Row], last: Sequence[Row]) -> Bounded:
    """B_simple of the last rows over that of the first."""
    seeds = {row.seed for row in first}
    return jackknife(lambda kept: log_b_simple(last, kept) - log_b_simple(first, kept), seeds).exp()


def loss_slope(levels: dict[float, list[Row]]) -> Bounded:
    """a of B_simple ∝ loss^−a over all bins."""
    logs = [-math.log(level) for level in levels]
    seeds = {row.seed for rows in levels.values() for row in rows}
    return jackknife(
        lambda kept: slopes([logs], [log_b_simple(rows, kept) for rows in levels.values()])[0],
        seeds,
    )


def table(rows: Sequence[Row]) -> str:
    """First and last bin of each task, and the growth between them."""
    lines = []
    for name in dict.fromkeys(row.task for row in rows):
        levels = by_level(rows, name)
        if len(levels) < 2:
            continue
        (high, first), *_, (low, last) = levels.items()
        task_rows = next(iter(levels.values()))[0]
        lines.append(
            (
                name,
                f"{number_cell(task_rows.learning_rate)} / {task_rows.global_size}",
                f"{high:.3g} → {low:.3g}",
                cell(b_simple(first), ".3g"),
                cell(b_simple(last), ".3g"),
                cell(growth(first, last), ".3g"),
                cell(loss_slope(levels)),
            )
        )
    head = (
        "task",
        "rate / batch size",
        "training loss",
        "B_simple at the first",
        "at the last",
        "growth",
        "a of B_simple ∝ loss^−a",
    )
    return markdown(head, lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple against the loss, a line for each task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    ax = figure.subplots()
    for name in dict.fromkeys(row.task for row in rows):
        points = []
        for level, mine in by_level(rows, name).items():
            one = b_simple(mine)
            if math.isfinite(one.low):
                points.append((level, *one))
        if not points:
            continue
        x, y, low, high = np.array(points).T
        ax.errorbar(x, y, yerr=[y - low, high - y], fmt="o-", markersize=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="training loss", ylabel="B_simple, examples")
    ax.invert_xaxis()
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9)
    figure.savefig(path)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    tasks: tuple[str, ...] = option(NAMES, "that are trained", extends=True, choices=NAMES)
    seeds: int = option(8, "runs of every task", least=2)
    most_steps: int = option(10_000, "of a run, where the task has no smaller bound")


BENCHMARK = Benchmark(
    name="atlas_growth",
    question="How much does B_simple grow while the training loss falls?",
    about=__doc__,
    row=Row,
    key=("task",),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("patches",), seeds=2, most_steps=200),
    tables={"atlas growth": table},
    minutes=2,
    draw=draw,
    order=lambda row: (NAMES.index(row.task), row.seed, -row.level),
)
