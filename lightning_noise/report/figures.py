"""The figure of a study's steps, from the plain numbers of ``curves``.

It can be read in print and in grey, and needs matplotlib (the extra ``plots``).
"""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.report.axes import B_CRIT, new_figure, plain_ticks, size_axis
from lightning_noise.report.curves import Curve, Regimes
from lightning_noise.say.words import interval, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGIMES = ("perfect\nscaling", "diminishing\nreturns", "maximal\nparallelism")
RUNS: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 5,
    "color": "0.35",
    "markerfacecolor": "white",
    "markeredgewidth": 1,
    "label": "runs",
    "zorder": 4,
}
MEANS: dict[str, Any] = {
    "fmt": "s",
    "markersize": 6,
    "color": "black",
    "capsize": 4,
    "elinewidth": 1.4,
    "zorder": 5,
}
# heights above the axis of batch sizes, as shares of the figure's
MARK = 0.03  # of b_crit and its interval
MARK_TEXT = 0.05
STRIP = 0.11  # up to here nothing but the mark
MISSED = 0.07  # of two more lines of text
HEAD = 0.14  # below the upper edge, of the names of the regimes
NO_FIT_HEAD = 0.2  # of the reason why there is no fit


def draw_steps(curve: Curve) -> "Figure":
    """Steps against the batch size.

    Shown are the runs and their means, the fit with its bands, b_crit on the axis, perfect scaling
    and three regimes; without a fit the runs, and why there is none.
    """
    figure, axes = new_figure()
    axes.set_yscale("log")
    title = f"{curve.goal}: steps against the batch size"
    sizes = [point.global_size for point in curve.points]
    steps = [point.steps for point in curve.points]
    shown = [*sizes, *curve.missed]
    axes.set_xlim(min(shown) / 2**0.5, max(shown) * 2**0.5)
    axes.plot(sizes, steps, **RUNS)
    if curve.fit is None or curve.regimes is None:
        title += " (no fit)"
        _draw_refusal(axes, curve)
    else:
        _draw_means(axes, curve)
        _draw_regimes(axes, curve, curve.regimes)
        _draw_fit(axes, curve, curve.fit)
        _draw_b_crit(axes, curve.fit)
    _draw_missed(axes, curve)
    limits = axes.get_xlim()
    size_axis(axes, shown)
    axes.set_xlim(limits)
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("optimizer steps to the goal")
    axes.set_title(title)
    return figure


def _draw_fit(axes: "Axes", curve: Curve, fit: CriticalBatchSize) -> None:
    """The fitted curve, its bands, and perfect scaling."""
    law = r"fit $S_\mathrm{min}(1 + B_\mathrm{crit}/B)$"
    axes.plot(
        curve.sizes,
        curve.steps,
        color="black",
        label=f"{law}: {B_CRIT} = {number(fit.b_crit)}",
        zorder=3,
    )
    percent = f"{100 * curve.confidence:g} %"
    bounds = f"{B_CRIT}: {interval(fit.low, fit.high)}"
    axes.fill_between(
        curve.sizes,
        curve.low,
        curve.high,
        color="0.7",
        linewidth=0,
        label=f"{percent} interval of the fit, {bounds}",
        zorder=2,
    )
    axes.fill_between(
        curve.sizes,
        curve.joint_low,
        curve.joint_high,
        color="0.84",
        linewidth=0,
        label=rf"{percent} region of $(S_\mathrm{{min}}, B_\mathrm{{crit}})$: the entire curve",
        zorder=1,
    )
    axes.plot(
        curve.sizes,
        curve.perfect,
        color="0.35",
        linestyle="--",
        label=r"perfect scaling: $E_\mathrm{min}/B$",
        zorder=2,
    )
    fewest = min(point.steps for point in curve.points)
    most = max(point.steps for point in curve.points)
    low = min(*curve.joint_low, fewest)
    high = max(*curve.joint_high, most)
    _leave_room(axes, low, high, _foot(curve), HEAD)
    axes.legend(
        loc="upper right",
        bbox_to_anchor=(1, 0.92),
        frameon=True,
        framealpha=0.9,
        edgecolor="none",
    )


def _foot(curve: Curve) -> float:
    """The share of the height that the marks above the axis take."""
    if curve.missed:
        return STRIP + MISSED
    return STRIP


def _leave_room(axes: "Axes", low: float, high: float, foot: float, head: float) -> None:
    """Limits such that values from ``low`` to ``high`` leave these shares of the height free."""
    height = math.log(1.15 * high / low) / (1 - foot - head)
    axes.set_ylim(low * math.exp(-foot * height), high * math.exp(head * height))


def _draw_means(axes: "Axes", curve: Curve) -> None:
    """What the fit goes through, with bars where an interval is known."""
    below = []
    above = []
    for mean in curve.means:
        below.append(mean.steps - (mean.low or mean.steps))
        above.append((mean.high or mean.steps) - mean.steps)
    axes.errorbar(
        [mean.global_size for mean in curve.means],
        [mean.steps for mean in curve.means],
        yerr=[below, above],
        label=f"mean of the runs, with its {100 * curve.confidence:g} % bar",
        **MEANS,
    )


def _draw_b_crit(axes: "Axes", fit: CriticalBatchSize) -> None:
    """On the axis: b_crit, its interval as a bar, an arrow where an end is open or out of sight."""
    left, right = axes.get_xlim()
    on_axis: dict[str, Any] = {
        "transform": axes.get_xaxis_transform(),
        "color": "black",
        "zorder": 6,
    }
    start = max(fit.low or 0.0, left)
    stop = min(fit.high or math.inf, right)
    if start < stop:
        axes.plot([start, stop], [MARK, MARK], linewidth=3, solid_capstyle="butt", **on_axis)
    for end, is_open, marker in (
        (start, start == left, "<"),
        (stop, stop == right, ">"),
    ):
        if is_open:
            axes.plot([end], [MARK], marker=marker, markersize=9, clip_on=False, **on_axis)
    place = min(max(fit.b_crit, left), right)
    if place == fit.b_crit:
        axes.plot([place], [MARK], marker="D", markersize=8, label="_b_crit", **on_axis)
        axes.plot(
            [place, place],
            [fit.steps(place), axes.get_ylim()[0]],
            color="black",
            linewidth=0.9,
            linestyle=":",
            zorder=2,
        )
    share = math.log(place / left) / math.log(right / left)
    side = "center"
    if share < 0.15:
        side = "left"
    elif share > 0.85:
        side = "right"
    axes.text(
        place,
        MARK_TEXT,
        f"{B_CRIT} = {number(fit.b_crit)} [{interval(fit.low, fit.high)}]",
        transform=axes.get_xaxis_transform(),
        ha=side,
        va="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        zorder=6,
    )


def _draw_refusal(axes: "Axes", curve: Curve) -> None:
    """Above the runs, why there is no curve through them."""
    steps = [point.steps for point in curve.points]
    _leave_room(axes, min(steps), max(steps), _foot(curve), NO_FIT_HEAD)
    axes.text(
        0.5,
        0.98,
        textwrap.fill(f"No fit: {curve.refusal}", 95),
        transform=axes.transAxes,
        ha="center",
        va="top",
    )
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, _foot(curve)),
        frameon=False,
    )


def _draw_missed(axes: "Axes", curve: Curve) -> None:
    """Above the mark of b_crit, how many runs of a batch size did not reach the goal."""
    for size, missed in curve.missed.items():
        axes.annotate(
            f"{missed.failed} of {missed.runs}\nmissed",
            (size, STRIP),
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
            axes.axvspan(start, stop, color="0.95", linewidth=0, zorder=0)
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
