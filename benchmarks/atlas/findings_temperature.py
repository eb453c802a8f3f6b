"""B_simple against the temperature of SGD, learning rate over batch size, at equal training loss.

An MLP with 64 hidden units learns scikit-learn's digits by SGD without momentum at five constant
rates and three batch sizes, eight seeds each. |G|² and tr(Σ) are measured on fresh examples at
checks that are 5 % of the steps apart, and pooled where the training loss is within a quarter of an
octave of a level. McCandlish et al. 2018 (appendix C) expect B_simple ∝ 1/temperature where the
batch is small: noise keeps stiff directions away from their minimum, and the gradient that this
leaves grows with the temperature while its variance does not. Intervals are jackknives over seeds.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.atlas.findings_descent import (
    Row,
    Setting,
    at_level,
    b_simple,
    descend,
    log_b_simple,
)
from benchmarks.atlas.findings_statistics import Bounded, cell, jackknife, slopes
from benchmarks.atlas.findings_tasks import digits_mlp, flat_digits
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import markdown

LEVELS = (1.0, 0.5, 0.25, 0.125)
MODERATE = 0.16  # rates up to here are far from the largest stable one


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All rates and sizes."""
    for rate, size in product(options.rates, options.sizes):
        if (rate, size) in done:
            continue
        setting = Setting(
            task=digits_mlp(),
            held=flat_digits(),
            optimizer="plain",
            learning_rate=rate,
            global_size=size,
            lowest=options.lowest,
            most_steps=options.most_steps,
        )
        yield descend(setting, range(options.seeds))


def settings_of(rows: Sequence[Row]) -> dict[tuple[float, int], list[Row]]:
    """The rows of each rate and size, the coldest first."""
    found: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row.learning_rate, row.global_size), []).append(row)
    return dict(sorted(found.items(), key=lambda item: item[0][0] / item[0][1]))


def exponents(rows: Sequence[Row], seeds: Collection[int]) -> list[float]:
    """Exponents of B_simple in learning rate and batch size, by least squares in logarithms."""
    rates, sizes, logs = [], [], []
    for (rate, size), mine in settings_of(rows).items():
        rates.append(math.log(rate))
        sizes.append(math.log(size))
        logs.append(log_b_simple(mine, seeds))
    return slopes([rates, sizes], logs)


def temperature_slope(rows: Sequence[Row], seeds: Collection[int]) -> float:
    """Exponent of B_simple in the temperature."""
    temperatures, logs = [], []
    for (rate, size), mine in settings_of(rows).items():
        temperatures.append(math.log(rate / size))
        logs.append(log_b_simple(mine, seeds))
    return slopes([temperatures], logs)[0]


def bounded_exponents(rows: Sequence[Row]) -> tuple[Bounded, Bounded, Bounded, Bounded]:
    """Exponents in temperature, rate and size, and the sum of the last two, which is 0 where only
    the temperature matters.
    """
    seeds = {row.seed for row in rows}
    return (
        jackknife(lambda kept: temperature_slope(rows, kept), seeds),
        jackknife(lambda kept: exponents(rows, kept)[0], seeds),
        jackknife(lambda kept: exponents(rows, kept)[1], seeds),
        jackknife(lambda kept: sum(exponents(rows, kept)), seeds),
    )


def kinds_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """All settings, and those on either side of a rate that is far from the largest stable one."""
    return {
        "all": list(rows),
        f"up to {MODERATE:g}": [row for row in rows if row.learning_rate <= MODERATE],
        f"above {MODERATE:g}": [row for row in rows if row.learning_rate > MODERATE],
    }


def table(rows: Sequence[Row]) -> str:
    """Exponents at every level, of all rates and of the moderate ones."""
    lines = []
    for level in LEVELS:
        for name, mine in kinds_of(at_level(rows, level)).items():
            if mine:
                cells = [cell(one) for one in bounded_exponents(mine)]
                lines.append((f"{level:g}", name, *cells))
    head = ("training loss", "learning rates", "of ε/B", "of ε", "of B", "sum of the last two")
    return markdown(head, lines)


def values_table(rows: Sequence[Row]) -> str:
    """B_simple of every setting, the coldest first."""
    lines = []
    for (rate, size), mine in settings_of(rows).items():
        values = []
        for level in LEVELS:
            values.append(cell(b_simple(at_level(mine, level)), ".3g"))
        lines.append((f"{rate / size:.2g}", f"{rate:g}", str(size), *values))
    levels = [f"B_simple at loss {level:g}" for level in LEVELS]
    return markdown(("ε/B", "learning rate ε", "batch size B", *levels), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple against temperature, a panel for each level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(LEVELS), sharex=True, sharey=True)
    for ax, level in zip(axes, LEVELS, strict=True):
        _draw_level(ax, at_level(rows, level))
        ax.set(xscale="log", yscale="log", xlabel="temperature ε/B")
        ax.set_title(f"at training loss {level:g}", fontsize=10)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("B_simple, examples")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path)


def _draw_level(ax: Any, rows: Sequence[Row]) -> None:
    found = settings_of(rows)
    for number, size in enumerate(sorted({size for _, size in found})):
        points = []
        for (rate, other), mine in found.items():
            one = b_simple(mine)
            if other == size and math.isfinite(one.low):
                points.append((rate / size, *one))
        if points:
            x, y, low, high = np.array(points).T
            errors = [y - low, high - y]
            label = f"B = {size}"
            ax.errorbar(x, y, yerr=errors, fmt="osD"[number % 3] + "-", markersize=4, label=label)
    if found:
        (rate, size), mine = next(iter(found.items()))
        x = np.array([rate / size for rate, size in found])
        value = b_simple(mine).value
        ax.plot(x, value * (rate / size) / x, "--", color="0.6", label="∝ 1/temperature")


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    rates: tuple[float, ...] = option((0.04, 0.08, 0.16, 0.32, 0.64), "learning rates")
    sizes: tuple[int, ...] = option((8, 32, 128), "batch sizes")
    seeds: int = option(8, "runs of every rate and size", least=2)
    lowest: float = option(0.125, "training loss that ends a run")
    most_steps: int = option(16000, "of a run")


BENCHMARK = Benchmark(
    name="atlas_temperature",
    question="Is B_simple inversely proportional to the temperature of SGD at equal loss?",
    about=__doc__,
    row=Row,
    key=("learning_rate", "global_size"),
    measure=measure,
    options=Options(),
    quick=Options(rates=(0.32, 0.64), sizes=(32, 128), seeds=2, lowest=1.0),
    tables={"atlas temperature": table, "atlas temperature values": values_table},
    minutes=2,
    draw=draw,
    order=lambda row: (row.learning_rate, row.global_size, row.seed, -row.level),
)
