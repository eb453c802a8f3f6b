"""B_simple against the width of a model, at equal training loss.

MLPs with 16 to 256 hidden units learn scikit-learn's digits by SGD without momentum at batch size
32 and two constant rates, eight seeds each. |G|² and tr(Σ) are measured on fresh examples at checks
that are 5 % of the steps apart and pooled where the training loss is within a quarter of an octave
of a level. McCandlish et al. 2018 find that the noise scale depends on the size of a model mostly
through the loss that it has reached. Intervals are jackknives over seeds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

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

LEVELS = (1.0, 0.5, 0.25)
TICKS = (50, 100, 200, 400)  # of B_simple in the figure


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All widths and rates."""
    for width, rate in product(options.widths, options.rates):
        if (width, rate) in done:
            continue
        setting = Setting(
            task=digits_mlp(width),
            held=flat_digits(),
            optimizer="plain",
            learning_rate=rate,
            global_size=options.global_size,
            lowest=options.lowest,
            most_steps=options.most_steps,
            width=width,
        )
        yield descend(setting, range(options.seeds))


def by_width(rows: Sequence[Row], rate: float) -> dict[int, list[Row]]:
    """The rows of a learning rate, the narrowest first."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.width):
        if row.learning_rate == rate:
            found.setdefault(row.width, []).append(row)
    return found


def width_slope(widths: dict[int, list[Row]]) -> Bounded:
    """a of B_simple ∝ width^a."""
    logs = [math.log(width) for width in widths]
    seeds = {row.seed for rows in widths.values() for row in rows}
    return jackknife(
        lambda kept: slopes([logs], [log_b_simple(rows, kept) for rows in widths.values()])[0],
        seeds,
    )


def table(rows: Sequence[Row]) -> str:
    """B_simple of every width at every rate and level, and the exponent of the width."""
    widths = sorted({row.width for row in rows})
    lines = []
    for rate in sorted({row.learning_rate for row in rows}):
        for level in LEVELS:
            found = by_width(at_level(rows, level), rate)
            if not found:
                continue
            values = []
            for width in widths:
                values.append(cell(b_simple(found.get(width, [])), ".3g"))
            lines.append((f"{rate:g}", f"{level:g}", *values, cell(width_slope(found))))
    names = [f"width {width}" for width in widths]
    return markdown(("learning rate", "training loss", *names, "a of width^a"), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple against width, a panel for each rate."""
    from matplotlib.figure import Figure

    rates = sorted({row.learning_rate for row in rows})
    widths = sorted({row.width for row in rows})
    figure = Figure(figsize=(4 * len(rates) + 1, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(rates), sharex=True, sharey=True, squeeze=False)[0]
    for ax, rate in zip(axes, rates, strict=True):
        for level in LEVELS:
            points = []
            for width, mine in by_width(at_level(rows, level), rate).items():
                one = b_simple(mine)
                if math.isfinite(one.low):
                    points.append((width, *one))
            if points:
                x, y, low, high = np.array(points).T
                label = f"loss {level:g}"
                ax.errorbar(x, y, yerr=[y - low, high - y], fmt="o-", markersize=4, label=label)
        ax.set(xscale="log", yscale="log", xlabel="hidden units")
        ax.set_xticks(widths, [str(width) for width in widths])
        ax.set_yticks(TICKS, [str(tick) for tick in TICKS])
        ax.minorticks_off()
        ax.set_title(f"learning rate {rate:g}", fontsize=10)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("B_simple, examples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    figure.savefig(path)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    widths: tuple[int, ...] = option((16, 32, 64, 128, 256), "hidden units", extends=True)
    rates: tuple[float, ...] = option((0.05, 0.2), "learning rates")
    global_size: int = option(32, "batch size, in examples")
    seeds: int = option(8, "runs of every width and rate", least=2)
    lowest: float = option(0.25, "training loss that ends a run")
    most_steps: int = option(6000, "of a run")


BENCHMARK = Benchmark(
    name="atlas_width",
    question="Does B_simple depend on the width of a model at equal loss?",
    about=__doc__,
    row=Row,
    key=("width", "learning_rate"),
    measure=measure,
    options=Options(),
    quick=Options(widths=(16, 32), rates=(0.2,), seeds=2, lowest=1.0),
    tables={"atlas width": table},
    minutes=2,
    draw=draw,
    order=lambda row: (row.width, row.learning_rate, row.seed, -row.level),
)
