"""Figures of steps against examples: a panel for every goal, or fronts coloured by their target.

They can be read in print and in grey. They need matplotlib (the extra ``plots``).
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lightning_noise.report.axes import B_CRIT, colours, new_figure, plain_ticks
from lightning_noise.report.curves import Frontier
from lightning_noise.report.fronts import Fronts
from lightning_noise.say.words import interval, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
MOST_TOGETHER = 2  # goals in one panel
MARKERS = "os"
STYLES = ("-", "--")
GREYS = ("black", "0.45")
AT_B_CRIT: dict[str, Any] = {
    "marker": "+",
    "linestyle": "",
    "markersize": 16,
    "markeredgewidth": 2,
    "zorder": 5,
}


def draw_frontier(frontiers: Sequence[Frontier]) -> "Figure":
    """Examples against steps, with the fitted hyperbola of each goal and b_crit on it.

    Two goals share a panel, more have one each, on the same axes.
    """
    figure, axes = new_figure()
    at_b_crit = r"$B = B_\mathrm{crit}$"
    title = f"Steps against examples; + where both are twice their least ({at_b_crit})"
    if len(frontiers) <= MOST_TOGETHER:
        _draw_together(axes, frontiers)
        axes.set_title(title)
        return figure
    axes.remove()
    rows = math.ceil(len(frontiers) / COLUMNS)
    figure.set_size_inches(10, 3.1 * rows + 0.9)
    for panel, found in zip(_panels(figure, rows, len(frontiers)), frontiers, strict=True):
        _draw_goal(panel, found, 0)
        panel.set_title(_name(found, "\n"), fontsize=10)
        panel.tick_params(labelsize=9)
        plain_ticks(panel.xaxis, *panel.get_xlim())
        plain_ticks(panel.yaxis, *panel.get_ylim())
    figure.suptitle(title)
    figure.supxlabel("optimizer steps $S$")
    figure.supylabel("examples $E = B S$")
    return figure


def _draw_together(axes: "Axes", frontiers: Sequence[Frontier]) -> None:
    from matplotlib.lines import Line2D

    axes.set_xscale("log")
    axes.set_yscale("log")
    handles = []
    for i, found in enumerate(frontiers):
        look = _draw_goal(axes, found, i)
        handles.append(Line2D([], [], label=_name(found, ": "), **look))
    axes.set_xlabel("optimizer steps $S$")
    axes.set_ylabel("examples $E = B S$")
    axes.grid(color="0.9", linewidth=0.6)
    plain_ticks(axes.xaxis, *axes.get_xlim())
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.legend(handles=handles, edgecolor="none", loc="best")


def _panels(figure: "Figure", rows: int, wanted: int) -> "Iterator[Axes]":
    """Panels with the same logarithmic axes; what is left over is removed."""
    columns = min(COLUMNS, wanted)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    grid[0][0].set_xscale("log")
    grid[0][0].set_yscale("log")
    for i, panel in enumerate(grid.flat):
        if i >= wanted:
            panel.remove()
            continue
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.9", linewidth=0.6)
        panel.tick_params(labelbottom=i + columns >= wanted)
        yield panel


def _draw_goal(axes: "Axes", found: Frontier, i: int) -> dict[str, Any]:
    """Points, hyperbola and b_crit of one goal; returns the look of its entry in a legend."""
    colour = GREYS[i]
    marks: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[i],
        "markersize": 5,
        "markerfacecolor": "white",
        "linestyle": "",
    }
    in_legend = dict(marks)
    if found.fit is not None:
        in_legend["linestyle"] = STYLES[i]
        axes.plot(found.steps, found.examples, linestyle=STYLES[i], color=colour)
        twice = found.fit.s_min * 2, found.fit.e_min * 2
        axes.plot([twice[0]], [twice[1]], color=colour, **AT_B_CRIT)
    steps, examples = zip(*found.points, strict=True)
    axes.plot(steps, examples, **marks)
    return in_legend


def _name(found: Frontier, separator: str) -> str:
    if found.fit is None:
        return found.goal
    bounds = interval(found.fit.low, found.fit.high)
    return f"{found.goal}{separator}{B_CRIT} = {number(found.fit.b_crit)} [{bounds}]"


def draw_fronts(found: Fronts) -> "Figure":
    """The Pareto fronts of many goals, coloured by the value of the metric that they ask for."""
    figure, axes = new_figure()
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    axes.set_xscale("log")
    axes.set_yscale("log")
    targets = [front.target for front in found.fronts]
    norm = Normalize(targets[0], targets[-1])
    if targets[0] > 0 and targets[-1] > 4 * targets[0]:
        norm = LogNorm(targets[0], targets[-1])
    shades = colours()
    for front in found.fronts:
        shade = shades(norm(front.target))
        axes.plot(front.steps, front.examples, color=shade)
        steps, examples = zip(*front.points, strict=True)
        axes.plot(steps, examples, "o", color=shade, markersize=4, zorder=4)
        if front.at_b_crit is not None:
            axes.plot(*[[value] for value in front.at_b_crit], color="black", **AT_B_CRIT)
    bar = figure.colorbar(ScalarMappable(norm, shades), ax=axes, label=f"{found.metric} to reach")
    bar.set_ticks(targets, labels=[number(target) for target in targets])
    bar.ax.minorticks_off()
    axes.grid(color="0.9", linewidth=0.6)
    plain_ticks(axes.xaxis, *axes.get_xlim())
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("optimizer steps $S$")
    axes.set_ylabel("examples $E = B S$")
    axes.set_title(f"Pareto fronts; + at {B_CRIT}, where steps and examples are twice their least")
    return figure
