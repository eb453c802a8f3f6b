"""Figures of a study, from the plain numbers of ``curves`` and ``rates``.

They can be read in print and in grey. They need matplotlib (``pip install
lightning-noise[plots]``).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_noise.report.axes import new_figure, plain_ticks, size_axis
from lightning_noise.report.curves import Curve, Frontier, Regimes
from lightning_noise.report.rates import PRUNED, Cell, RateMap, RateRule
from lightning_noise.report.terms import DIVERGED, INCOMPLETE
from lightning_noise.say.words import interval, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
GREYS = ("black", "0.35", "0.55", "0.2")
REGIMES = ("perfect\nscaling", "diminishing\nreturns", "maximal\nparallelism")
RUNS: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 6,
    "color": "black",
    "markerfacecolor": "white",
    "markeredgewidth": 1.2,
    "label": "runs",
    "zorder": 4,
}
WINNER: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 11}
PATTERNS: dict[str, dict[str, Any]] = {
    PRUNED: {"facecolor": "white", "edgecolor": "0.6", "hatch": "..", "linewidth": 0.5},
    INCOMPLETE: {"facecolor": "white", "edgecolor": "0.45", "hatch": "///", "linewidth": 0.5},
    DIVERGED: {"facecolor": "white", "edgecolor": "black", "hatch": "xxxx", "linewidth": 0.5},
}
B_CRIT = r"$B_\mathrm{crit}$"


def draw_steps(curve: Curve) -> "Figure":
    """Steps against the batch size: runs, fit with its interval, perfect scaling, three regimes."""
    figure, axes = new_figure()
    sizes = [point.global_size for point in curve.points]
    steps = [point.steps for point in curve.points]
    axes.set_yscale("log")
    if curve.fit is not None and curve.regimes is not None:
        _draw_regimes(axes, curve, curve.regimes)
        law = r"fit $S_\mathrm{min}(1 + B_\mathrm{crit}/B)$"
        label = f"{law}: {B_CRIT} = {number(curve.fit.b_crit)}"
        axes.plot(curve.sizes, curve.steps, color="black", label=label, zorder=3)
        bounds = f"{B_CRIT}: {interval(curve.fit.low, curve.fit.high)}"
        label = f"{100 * curve.confidence:g} % interval of the fit, {bounds}"
        band: dict[str, Any] = {"color": "0.72", "linewidth": 0, "label": label}
        axes.fill_between(curve.sizes, curve.low, curve.high, **band)
        label = r"perfect scaling: $E_\mathrm{min}/B$"
        axes.plot(curve.sizes, curve.perfect, color="0.35", linestyle="--", label=label)
        axes.set_ylim(min(*curve.low, *steps) / 1.6, max(curve.high) * 1.8)
    axes.plot(sizes, steps, **RUNS)
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
    for size, (failed, runs) in curve.missed.items():
        axes.annotate(f"{failed} of {runs}\nmissed", (size, 0.02), fontsize=8, **place)
    shown = [*sizes, *curve.missed]
    size_axis(axes, shown)
    axes.set_xlim(min(shown) / 2**0.5, max(shown) * 2**0.5)
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("optimizer steps to the goal")
    ending = "" if curve.fit else " (no fit)"
    axes.set_title(f"{curve.goal}: steps against the batch size{ending}")
    box: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none"}
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.92), **box)
    return figure


def _draw_regimes(axes: "Axes", curve: Curve, regimes: Regimes) -> None:
    """The middle regime on a grey ground, names at the top."""
    left, right = curve.sizes[0], curve.sizes[-1]
    inner = (regimes.end_of_perfect_scaling, regimes.start_of_maximal_parallelism)
    ends = [left, *(min(max(end, left), right) for end in inner), right]
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
    for i, name in enumerate(REGIMES):
        start, stop = ends[i], ends[i + 1]
        if stop <= start:
            continue
        if i == 1:
            axes.axvspan(start, stop, color="0.93", linewidth=0)
        for border in (start, stop):
            if left < border < right:
                axes.axvline(border, color="0.6", linewidth=0.8, linestyle=":")
        if math.log(stop / start) > 0.09 * math.log(right / left):
            axes.text(math.sqrt(start * stop), 0.985, name, fontsize=9, **place)


def draw_frontier(frontiers: Sequence[Frontier]) -> "Figure":
    """Examples against steps, one frontier per goal, with the fitted hyperbola and b_crit on it."""
    figure, axes = new_figure()
    from matplotlib.lines import Line2D

    axes.set_xscale("log")
    axes.set_yscale("log")
    handles = []
    for i, found in enumerate(frontiers):
        colour = GREYS[i % len(GREYS)]
        marks: dict[str, Any] = {
            "color": colour,
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 6,
            "markerfacecolor": "white" if i % 2 == 0 else colour,
            "linestyle": "",
        }
        label = found.goal
        key: dict[str, Any] = dict(marks)  # in the legend
        if found.fit is not None:
            fit, style = found.fit, STYLES[i % len(STYLES)]
            key["linestyle"] = style
            cross: dict[str, Any] = {"color": colour, "markersize": 16, "markeredgewidth": 2}
            axes.plot(found.steps, found.examples, linestyle=style, color=colour)
            axes.plot([2 * fit.s_min], [2 * fit.e_min], "+", **cross)
            label += f": {B_CRIT} = {number(fit.b_crit)} [{interval(fit.low, fit.high)}]"
        axes.plot(*zip(*found.points, strict=True), **marks)
        handles.append(Line2D([], [], label=label, **key))
    axes.set_xlabel("optimizer steps $S$")
    axes.set_ylabel("examples $E = B S$")
    at_b_crit = r"$B = B_\mathrm{crit}$"
    axes.set_title(f"Steps against examples; + where both are twice their least ({at_b_crit})")
    axes.grid(color="0.9", linewidth=0.6)
    plain_ticks(axes.xaxis, *axes.get_xlim())
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.legend(handles=handles, edgecolor="none", loc="best")
    return figure


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
        return {"facecolor": shade, "edgecolor": "white", "linewidth": 0.5}

    for cell in found.cells:
        column = found.sizes.index(cell.global_size)
        corner = (column - 0.45, cell.low)
        axes.add_patch(Rectangle(corner, 0.9, cell.high - cell.low, **look(cell)))
        if cell.best:
            marker = "^" if cell.boundary else "*"
            axes.plot(column, cell.learning_rate, marker, **WINNER)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(found.sizes) - 0.4)
    lowest = min(cell.low for cell in found.cells)
    axes.set_ylim(lowest / 1.1, max(cell.high for cell in found.cells) * 1.1)
    axes.set_xticks(range(len(found.sizes)), [f"{size:g}" for size in found.sizes])
    axes.set_xlabel("global batch size $B$, examples")
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("learning rate")
    axes.set_title(f"{found.goal}: how the search trials ended")
    label = "steps, relative to the best trial of the batch size"
    bar = figure.colorbar(ScalarMappable(norm, grey), ax=axes, label=label)
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
    """The best learning rate against the batch size, and the rules beside it.

    These are the fitted rule, the linear rule and the square-root rule.
    """
    figure, axes = new_figure()
    axes.set_yscale("log")
    if found.alpha is not None and found.low is not None and found.high is not None:
        bounds = f"{100 * found.confidence:g} %: {found.low:.2f} to {found.high:.2f}"
        alpha = rf"$\alpha$ = {found.alpha:.2f} [{bounds}]"
        law = r"fit $\epsilon \propto B^\alpha$"
        if found.b_star is not None:
            law = r"fit $\epsilon_*/(1 + B_\mathrm{crit}/B)^\alpha$"
            law += f", {B_CRIT} = {number(found.b_star)}"
        axes.plot(found.sizes, found.rates, color="black", label=f"{law}: {alpha}")
        label = r"linear rule, $\epsilon \propto B$"
        axes.plot(found.sizes, found.linear, color="0.45", linestyle="--", label=label)
        label = r"square-root rule, $\epsilon \propto \sqrt{B}$"
        axes.plot(found.sizes, found.root, color="0.45", linestyle=":", label=label)
    _draw_winners(axes, found)
    size_axis(axes, [point.global_size for point in found.points])
    rates = [*(point.learning_rate for point in found.points), *found.rates]
    axes.set_ylim(min(rates) / 2, max(rates) * 4)
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel(r"learning rate $\epsilon$")
    axes.set_title(f"{found.goal}: best learning rate against the batch size")
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(frameon=False, loc="upper left")
    return figure


def _draw_winners(axes: "Axes", found: RateRule) -> None:
    inside: dict[str, Any] = {"marker": "o", "markerfacecolor": "black", "label": "best trial"}
    on_edge: dict[str, Any] = {
        "marker": "^",
        "markerfacecolor": "white",
        "label": "best trial on the edge of the search, not in the fit",
    }
    for boundary, look in ((False, inside), (True, on_edge)):
        here = [point for point in found.points if point.boundary is boundary]
        if here:
            x = [point.global_size for point in here]
            y = [point.learning_rate for point in here]
            axes.plot(x, y, linestyle="", color="black", markersize=7, **look)
