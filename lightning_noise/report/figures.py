"""Figures of a study's steps and examples, from the plain numbers of ``curves``.

They can be read in print and in grey. They need matplotlib (``pip install
lightning-noise[plots]``).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.report.axes import B_CRIT, new_figure, plain_ticks, size_axis
from lightning_noise.report.curves import Curve, Frontier, Regimes
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


def draw_steps(curve: Curve) -> "Figure":
    """Steps against the batch size: runs, fit with its interval, perfect scaling, three regimes."""
    figure, axes = new_figure()
    axes.set_yscale("log")
    title = f"{curve.goal}: steps against the batch size"
    if curve.fit is None or curve.regimes is None:
        title += " (no fit)"
    else:
        _draw_regimes(axes, curve, curve.regimes)
        _draw_fit(axes, curve, curve.fit)
    sizes = [point.global_size for point in curve.points]
    steps = [point.steps for point in curve.points]
    axes.plot(sizes, steps, **RUNS)
    _draw_missed(axes, curve)
    shown = [*sizes, *curve.missed]
    size_axis(axes, shown)
    axes.set_xlim(min(shown) / 2**0.5, max(shown) * 2**0.5)
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("optimizer steps to the goal")
    axes.set_title(title)
    axes.legend(
        loc="upper right",
        bbox_to_anchor=(1, 0.92),
        frameon=True,
        framealpha=0.9,
        edgecolor="none",
    )
    return figure


def _draw_fit(axes: "Axes", curve: Curve, fit: CriticalBatchSize) -> None:
    """The fitted curve, its interval, and perfect scaling."""
    law = r"fit $S_\mathrm{min}(1 + B_\mathrm{crit}/B)$"
    axes.plot(
        curve.sizes,
        curve.steps,
        color="black",
        label=f"{law}: {B_CRIT} = {number(fit.b_crit)}",
        zorder=3,
    )
    bounds = f"{B_CRIT}: {interval(fit.low, fit.high)}"
    axes.fill_between(
        curve.sizes,
        curve.low,
        curve.high,
        color="0.72",
        linewidth=0,
        label=f"{100 * curve.confidence:g} % interval of the fit, {bounds}",
    )
    axes.plot(
        curve.sizes,
        curve.perfect,
        color="0.35",
        linestyle="--",
        label=r"perfect scaling: $E_\mathrm{min}/B$",
    )
    fewest = min(point.steps for point in curve.points)
    lowest = min(*curve.low, fewest)
    axes.set_ylim(lowest / 1.6, max(curve.high) * 1.8)


def _draw_missed(axes: "Axes", curve: Curve) -> None:
    """At the bottom, how many runs of a batch size did not reach the goal."""
    for size, missed in curve.missed.items():
        axes.annotate(
            f"{missed.failed} of {missed.runs}\nmissed",
            (size, 0.02),
            fontsize=8,
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
        )


def _draw_regimes(axes: "Axes", curve: Curve, regimes: Regimes) -> None:
    """The middle regime on a grey ground, names at the top."""
    left, right = curve.sizes[0], curve.sizes[-1]
    ends = [left]
    for end in (regimes.end_of_perfect_scaling, regimes.start_of_maximal_parallelism):
        ends.append(min(max(end, left), right))
    ends.append(right)
    for i, name in enumerate(REGIMES):
        start, stop = ends[i], ends[i + 1]
        if stop <= start:
            continue
        if i == 1:
            axes.axvspan(start, stop, color="0.93", linewidth=0)
        for border in (start, stop):
            if left < border < right:
                axes.axvline(border, color="0.6", linewidth=0.8, linestyle=":")
        width = math.log(stop / start) / math.log(right / left)
        if width > 0.09:  # as a share of the axis: the name has room
            axes.text(
                math.sqrt(start * stop),
                0.985,
                name,
                fontsize=9,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="top",
            )


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
            "markerfacecolor": colour,
            "linestyle": "",
        }
        if i % 2 == 0:
            marks["markerfacecolor"] = "white"
        label = found.goal
        in_legend: dict[str, Any] = dict(marks)
        if found.fit is not None:
            fit = found.fit
            style = STYLES[i % len(STYLES)]
            in_legend["linestyle"] = style
            axes.plot(
                found.steps,
                found.examples,
                linestyle=style,
                color=colour,
            )
            axes.plot(
                [2 * fit.s_min],
                [2 * fit.e_min],
                "+",
                color=colour,
                markersize=16,
                markeredgewidth=2,
            )
            bounds = interval(fit.low, fit.high)
            label += f": {B_CRIT} = {number(fit.b_crit)} [{bounds}]"
        steps, examples = zip(*found.points, strict=True)
        axes.plot(steps, examples, **marks)
        handles.append(Line2D([], [], label=label, **in_legend))
    axes.set_xlabel("optimizer steps $S$")
    axes.set_ylabel("examples $E = B S$")
    at_b_crit = r"$B = B_\mathrm{crit}$"
    axes.set_title(f"Steps against examples; + where both are twice their least ({at_b_crit})")
    axes.grid(color="0.9", linewidth=0.6)
    plain_ticks(axes.xaxis, *axes.get_xlim())
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.legend(handles=handles, edgecolor="none", loc="best")
    return figure
