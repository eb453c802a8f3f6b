"""The figure of a check by branches: how much worse each batch size ends."""

import math
from typing import TYPE_CHECKING, NamedTuple

from lightning_noise.core.branches import Bracket, Difference
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.report.axes import new_figure, size_axis
from lightning_noise.say.words import interval, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 10  # times the tolerance: beyond it the axis of differences is logarithmic


class Branches(NamedTuple):
    """What the figure shows.

    Attributes:
        metric: name of the metric.
        examples: that each branch trained on.
        differences: of every batch size in ascending order, the reference first.
        tolerance: up to which a difference is fine; None: not known.
        bracket: of the critical batch size; None: not known.
        noise_scale: at the checkpoint; None: not measured.
        noise_name: its name.
    """

    metric: str
    examples: int
    differences: tuple[Difference, ...]
    tolerance: float | None
    bracket: Bracket | None
    noise_scale: NoiseEstimate | None
    noise_name: str


def draw_branches(branches: Branches) -> "Figure":
    """Differences with their intervals, the tolerance, the bracket and the noise scale.

    Batch sizes of which a branch diverged are crosses at the top.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    figure, axes = new_figure()
    sizes = [row.global_size for row in branches.differences]
    _set_limits(axes, branches)
    _draw_differences(axes, branches)
    _draw_tolerance(axes, branches)
    _draw_bracket(axes, branches)
    _draw_noise_scale(axes, branches)
    limits = axes.get_xlim()
    size_axis(axes, sizes)
    axes.set_xlim(limits)
    axes.set_ylabel(f"{branches.metric}: worse than at {sizes[0]}")
    axes.set_title(f"Branches of one checkpoint, {branches.examples} examples each")
    axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def _set_limits(axes: "Axes", branches: Branches) -> None:
    """Room for the noise scale within a factor of 16 of the sizes, and for every interval."""
    sizes = [row.global_size for row in branches.differences]
    low: float = min(sizes)
    high: float = max(sizes)
    scale = branches.noise_scale and branches.noise_scale.noise_scale
    if scale:
        low = min(low, max(scale, low / 16))
        high = max(high, min(scale, high * 16))
    axes.set_xlim(low / 2**0.5, high * 2**0.5)
    finite = [row for row in branches.differences if not row.diverged]
    bottom = min(row.low for row in finite)
    top = max(row.high for row in finite)
    tolerance = branches.tolerance
    if tolerance is not None:
        top = max(top, tolerance)
        if max(top, -bottom) > FAR * tolerance:
            _logarithmic(axes, 2 * tolerance)
            axes.set_ylim(min(1.5 * bottom, -tolerance), 4 * top)
            return
    height = max(top - bottom, 1e-12)
    axes.set_ylim(bottom - 0.08 * height, top + 0.35 * height)


def _logarithmic(axes: "Axes", threshold: float) -> None:
    """Differences beyond the threshold on a logarithmic scale, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("symlog", linthresh=threshold, subs=[2, 5])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_differences(axes: "Axes", branches: Branches) -> None:
    finite = [row for row in branches.differences if not row.diverged]
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.errorbar(
        [row.global_size for row in finite],
        [row.worse for row in finite],
        yerr=[
            [row.worse - row.low for row in finite],
            [row.high - row.worse for row in finite],
        ],
        fmt="o-",
        color="black",
        linewidth=0.8,
        elinewidth=1.4,
        capsize=4,
        markersize=6,
        label="mean over seeds with its 95 % interval",
        zorder=5,
    )
    diverged = [row for row in branches.differences if row.diverged]
    if diverged:
        axes.plot(
            [row.global_size for row in diverged],
            [0.97] * len(diverged),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="x",
            markersize=9,
            color="black",
            label="diverged",
            zorder=5,
        )


def _draw_tolerance(axes: "Axes", branches: Branches) -> None:
    if branches.tolerance is None:
        return
    axes.axhline(
        branches.tolerance,
        color="0.35",
        linestyle="--",
        label=f"tolerance: {number(branches.tolerance)}",
        zorder=3,
    )


def _draw_bracket(axes: "Axes", branches: Branches) -> None:
    """A light ground from the largest size that is fine to the smallest that is too large."""
    found = branches.bracket
    if found is None:
        return
    right = axes.get_xlim()[1]
    axes.axvspan(
        found.low,
        min(found.high or math.inf, right),
        color="0.9",
        linewidth=0,
        label=f"critical batch size: {interval(found.low, found.high)}",
        zorder=0,
    )
    if found.critical is None or branches.tolerance is None:
        return
    axes.plot(
        [found.critical],
        [branches.tolerance],
        linestyle="",
        marker="D",
        markersize=8,
        color="black",
        markerfacecolor="white",
        label=f"by interpolation: {number(found.critical)}",
        zorder=6,
    )


def _draw_noise_scale(axes: "Axes", branches: Branches) -> None:
    """A dotted line with a hatched band, which stays readable in grey on the ground below it."""
    found = branches.noise_scale
    if found is None or found.low is None:
        return
    left, right = axes.get_xlim()
    bounds = interval(found.low, found.high)
    start = max(found.low, left)
    stop = min(found.high or math.inf, right)
    label = f"{branches.noise_name} at the checkpoint: {bounds}"
    if start < stop:
        axes.axvspan(
            start,
            stop,
            facecolor="none",
            edgecolor="0.6",
            hatch="///",
            linewidth=0,
            label=label,
            zorder=1,
        )
    if found.noise_scale is not None and left < found.noise_scale < right:
        axes.axvline(
            found.noise_scale,
            color="black",
            linestyle=":",
            linewidth=1.6,
            label=f"{branches.noise_name} = {number(found.noise_scale)}",
            zorder=2,
        )
