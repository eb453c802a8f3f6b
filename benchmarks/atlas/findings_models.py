"""B_simple at equal training loss of settings that differ in one number: its table and figure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from benchmarks.harness.spec import Settings, option
from benchmarks.harness.tables import markdown

LEVELS = (1.0, 0.5, 0.25)
TICKS = (10, 20, 50, 100, 200, 400, 800)  # of B_simple in the figure


class Varied(NamedTuple):
    """The number that differs.

    Args:
        noun: in the table.
        axis: of the figure.
        of: its value in a row.
    """

    noun: str
    axis: str
    of: Callable[[Row], Any]


@dataclass(frozen=True, kw_only=True)
class DescentOptions(Settings):
    """How the settings are trained."""

    rates: tuple[float, ...] = option((0.05, 0.2), "learning rates")
    global_size: int = option(32, "batch size, in examples")
    seeds: int = option(8, "runs of every setting and rate", least=2)
    lowest: float = option(0.25, "training loss that ends a run")
    most_steps: int = option(6000, "of a run")

    def setting(self, learning_rate: float, **changes: Any) -> Setting:
        """An MLP on all digits by SGD without momentum, but for ``changes``."""
        base: dict[str, Any] = {"task": digits_mlp(), "held": flat_digits()}
        return Setting(
            **(base | changes),
            optimizer="plain",
            learning_rate=learning_rate,
            global_size=self.global_size,
            lowest=self.lowest,
            most_steps=self.most_steps,
        )

    def rows_of(self, setting: Setting) -> list[Row]:
        """All seeds of a setting."""
        return descend(setting, range(self.seeds))


def by_value(rows: Sequence[Row], rate: float, varied: Varied) -> dict[int, list[Row]]:
    """The rows of a learning rate, the smallest value first."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=varied.of):
        if row.learning_rate == rate:
            found.setdefault(varied.of(row), []).append(row)
    return found


def power(values: dict[int, list[Row]]) -> Bounded:
    """a of B_simple ∝ value^a."""
    logs = [math.log(value) for value in values]
    seeds = {row.seed for rows in values.values() for row in rows}
    return jackknife(
        lambda kept: slopes([logs], [log_b_simple(rows, kept) for rows in values.values()])[0],
        seeds,
    )


def table(rows: Sequence[Row], varied: Varied) -> str:
    """B_simple of every value at every rate and level, and the exponent of the value."""
    values = sorted({varied.of(row) for row in rows})
    lines = []
    for rate in sorted({row.learning_rate for row in rows}):
        for level in LEVELS:
            found = by_value(at_level(rows, level), rate, varied)
            if not found:
                continue
            cells = []
            for value in values:
                cells.append(cell(b_simple(found.get(value, [])), ".3g"))
            lines.append((f"{rate:g}", f"{level:g}", *cells, cell(power(found))))
    names = [f"{varied.noun} {value}" for value in values]
    head = ("learning rate", "training loss", *names, f"a of {varied.noun}^a")
    return markdown(head, lines)


def draw(rows: Sequence[Row], path: Path, varied: Varied) -> None:
    """B_simple against the number that differs, a panel for each rate."""
    from matplotlib.figure import Figure

    rates = sorted({row.learning_rate for row in rows})
    values = sorted({varied.of(row) for row in rows})
    figure = Figure(figsize=(4 * len(rates) + 1, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(rates), sharex=True, sharey=True, squeeze=False)[0]
    ends = []
    for ax, rate in zip(axes, rates, strict=True):
        for level in LEVELS:
            points = []
            for value, mine in by_value(at_level(rows, level), rate, varied).items():
                one = b_simple(mine)
                if math.isfinite(one.low):
                    points.append((value, *one))
            if points:
                x, y, low, high = np.array(points).T
                label = f"loss {level:g}"
                ax.errorbar(x, y, yerr=[y - low, high - y], fmt="o-", markersize=4, label=label)
                ends += [*low, *high]
        ax.set(xscale="log", yscale="log", xlabel=varied.axis)
        ax.set_xticks(values, [str(value) for value in values])
        ax.minorticks_off()
        ax.set_title(f"learning rate {rate:g}", fontsize=10)
        ax.grid(alpha=0.3)
    ticks = [tick for tick in TICKS if ends and min(ends) <= tick <= max(ends)]
    axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
    axes[0].set_ylabel("B_simple, examples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    figure.savefig(path)
