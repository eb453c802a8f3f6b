"""Figures of a study's learning rates, from the plain numbers of ``rates``.

They can be read in print and in grey. They need matplotlib (the extra
``plots``).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_noise.report.axes import B_CRIT, new_figure, plain_ticks, size_axis
from lightning_noise.report.rates import PRUNED, BestRate, Cell, RateMap, RateRule
from lightning_noise.report.terms import DIVERGED, INCOMPLETE
from lightning_noise.say.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINNER: dict[str, Any] = {
    "color": "white",
    "markeredgecolor": "black",
    "markersize": 11,
}
PATTERNS: dict[str, dict[str, Any]] = {
    PRUNED: {
        "facecolor": "white",
        "edgecolor": "0.6",
        "hatch": "..",
        "linewidth": 0.5,
    },
    INCOMPLETE: {
        "facecolor": "white",
        "edgecolor": "0.45",
        "hatch": "///",
        "linewidth": 0.5,
    },
    DIVERGED: {
        "facecolor": "white",
        "edgecolor": "black",
        "hatch": "xxxx",
        "linewidth": 0.5,
    },
}


def draw_rate_map(found: RateMap) -> "Figure":
    """How each trial ended, learning rate × batch size.

    Cells are dark where a trial was quick, and hatched where it did not reach the goal.
    """
    figure, axes = new_figure()
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    grey = LinearSegmentedColormap.from_list("dark to light", ["0.2", "0.88"])
    norm = Normalize(0, math.log2(4))

    def look(cell: Cell) -> dict[str, Any]:
        if cell.excess is None:
            return PATTERNS[cell.status]
        shade = grey(norm(math.log2(cell.excess)))
        return {
            "facecolor": shade,
            "edgecolor": "white",
            "linewidth": 0.5,
        }

    for cell in found.cells:
        column = found.sizes.index(cell.global_size)
        corner = (column - 0.45, cell.low)
        height = cell.high - cell.low
        axes.add_patch(Rectangle(corner, 0.9, height, **look(cell)))
        if not cell.best:
            continue
        marker = "*"
        if cell.boundary:
            marker = "^"
        axes.plot(column, cell.learning_rate, marker, **WINNER)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(found.sizes) - 0.4)
    lowest = min(cell.low for cell in found.cells)
    highest = max(cell.high for cell in found.cells)
    axes.set_ylim(lowest / 1.1, highest * 1.1)
    labels = [f"{size:g}" for size in found.sizes]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("global batch size $B$, examples")
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("learning rate")
    axes.set_title(f"{found.goal}: how the search trials ended")
    bar = figure.colorbar(
        ScalarMappable(norm, grey),
        ax=axes,
        label="steps, relative to the best trial of the batch size",
    )
    bar.set_ticks([0, 1, 2], labels=["1", "2", "4 or more"])
    star: dict[str, Any] = {**WINNER, "linestyle": ""}
    handles = [
        Patch(facecolor=grey(0.0), label="reached"),
        Patch(label="pruned: could no longer win", **PATTERNS[PRUNED]),
        Patch(label="incomplete: the budget ended first", **PATTERNS[INCOMPLETE]),
        Patch(label="diverged", **PATTERNS[DIVERGED]),
        Line2D([], [], marker="*", label="best", **star),
        Line2D([], [], marker="^", label="best, on the edge of the search", **star),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_rate_rule(found: RateRule) -> "Figure":
    """The best learning rate against the batch size.

    The fitted rule, the linear rule and the square-root rule are drawn with it.
    """
    figure, axes = new_figure()
    axes.set_yscale("log")
    if found.alpha is not None and found.low is not None and found.high is not None:
        ends = f"{found.low:.2f} to {found.high:.2f}"
        alpha = rf"$\alpha$ = {found.alpha:.2f} [{100 * found.confidence:g} %: {ends}]"
        _draw_rules(axes, found, alpha)
    _draw_winners(axes, found)
    size_axis(axes, [point.global_size for point in found.points])
    rates = [point.learning_rate for point in found.points]
    rates += found.rates
    axes.set_ylim(min(rates) / 2, max(rates) * 4)
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel(r"learning rate $\epsilon$")
    axes.set_title(f"{found.goal}: best learning rate against the batch size")
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(frameon=False, loc="upper left")
    return figure


def _draw_rules(axes: "Axes", found: RateRule, alpha: str) -> None:
    """The fitted rule with its exponent, the linear and the square-root rule."""
    law = r"fit $\epsilon \propto B^\alpha$"
    if found.b_star is not None:
        law = r"fit $\epsilon_*/(1 + B_\mathrm{crit}/B)^\alpha$"
        law += f", {B_CRIT} = {number(found.b_star)}"
    axes.plot(
        found.sizes,
        found.rates,
        color="black",
        label=f"{law}: {alpha}",
    )
    axes.plot(
        found.sizes,
        found.linear,
        color="0.45",
        linestyle="--",
        label=r"linear rule, $\epsilon \propto B$",
    )
    axes.plot(
        found.sizes,
        found.root,
        color="0.45",
        linestyle=":",
        label=r"square-root rule, $\epsilon \propto \sqrt{B}$",
    )


def _draw_winners(axes: "Axes", found: RateRule) -> None:
    inside = [point for point in found.points if not point.boundary]
    on_edge = [point for point in found.points if point.boundary]
    _draw_rates(axes, inside, marker="o", fill="black", label="best trial")
    _draw_rates(
        axes,
        on_edge,
        marker="^",
        fill="white",
        label="best trial on the edge of the search, not in the fit",
    )


def _draw_rates(
    axes: "Axes",
    points: Sequence[BestRate],
    *,
    marker: str,
    fill: str,
    label: str,
) -> None:
    if not points:
        return
    axes.plot(
        [point.global_size for point in points],
        [point.learning_rate for point in points],
        linestyle="",
        color="black",
        markersize=7,
        marker=marker,
        markerfacecolor=fill,
        label=label,
    )
