"""The figure of one run: the noise scale beside the batch size, and what the batch size costs."""

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_noise.core.digits import in_digits
from lightning_noise.core.history import Moment
from lightning_noise.core.tradeoff import examples_factor, steps_factor
from lightning_noise.report.axes import plain_ticks, two_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOISE = "#1f5fa8"
SIZE = "#c2570c"
INK = "#333333"
WIDE = (9.0, 8.0)  # inches
TWO_COLUMNS = 5.5  # inches that a legend of two columns takes
PIXELS = 900.0  # of any width
LETTERS = 11.0  # of a title in an inch
SPAN = 16.0  # batch sizes on the trade-off curve, relative to the noise scale


class RunPart(NamedTuple):
    """The part of a run that the verdict rests on, and the numbers there.

    Args:
        size: the batch size, in examples.
        b: the noise scale; ``None`` where it is not resolved.
        low, high: its interval.
        until: the last step of the part on the axis of the figure; ``None`` for the end of the run.
    """

    size: float
    b: float | None
    low: float | None
    high: float | None
    until: int | None = None


def draw_run(
    moments: Sequence[Moment],
    part: RunPart | None,
    *,
    title: str = "",
    unit: str = "examples",
    size: tuple[float, float] = WIDE,
) -> "Figure":
    """The noise scale with its interval and the batch size over a run; below, the trade-off.

    Where the noise scale is not resolved, its lower end is drawn alone, dotted: there is no upper
    bound. The curve below shows steps and examples relative to their minimum, by the large-batch
    model, with the batch size in use marked on it.

    Args:
        moments: of the run, in their order; at least one.
        part: what the trade-off rests on; ``None``: it is left out.
        title: above the figure.
        unit: what a batch size counts, in the plural.
        size: width and height in inches; the letters are the larger, the narrower the figure.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
        ValueError: there is no moment.
    """
    if not moments:
        raise ValueError("moments must hold at least one moment of the run, got none.")
    figure, upper, lower = two_panels(3, 2)
    width, _ = size
    figure.set_size_inches(*size)
    figure.set_dpi(PIXELS / width)
    _draw_course(upper, moments, part, unit)
    _draw_trade_off(lower, part, unit)
    columns = 2
    if width < TWO_COLUMNS:
        columns = 1
    _add_legend(upper, columns)
    if lower.axison:
        _add_legend(lower, columns)
    if title:
        lines = fill(title, int(LETTERS * width))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=11, color=INK)
    figure.canvas.draw()
    return figure


def _draw_course(
    axes: "Axes",
    moments: Sequence[Moment],
    part: RunPart | None,
    unit: str,
) -> None:
    axes.set_yscale("log")
    _draw_band(axes, moments)
    _draw_bound(axes, moments)
    sized = [moment for moment in moments if moment.size]
    axes.step(
        [moment.step for moment in sized],
        [moment.size or 0.0 for moment in sized],
        where="post",
        color=SIZE,
        linewidth=1.8,
        linestyle="--",
        label="batch size in use",
    )
    if part is not None and part.until is not None:
        axes.axvspan(moments[0].step, part.until, color="0.95", linewidth=0, zorder=0)
        axes.text(
            part.until,
            0.98,
            "the verdict rests on the shaded part ",
            transform=axes.get_xaxis_transform(),
            ha="right",
            va="top",
            fontsize=9,
            color="0.35",
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    plain_ticks(axes.yaxis, *axes.get_ylim())


def _add_legend(axes: "Axes", columns: int) -> None:
    """Above the panel: on a narrow figure it would cover what is drawn."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9)


def _draw_band(axes: "Axes", moments: Sequence[Moment]) -> None:
    """Every resolved stretch by itself: nothing bridges what is not known."""
    label: dict[str, Any] = {"label": r"noise scale $B_\mathrm{simple}$, 95 % interval"}
    for resolved, stretch in groupby(moments, key=_is_resolved):
        if not resolved:
            continue
        points = list(stretch)
        steps = [moment.step for moment in points]
        lows = [moment.low or 0.0 for moment in points]
        highs = [moment.high or 0.0 for moment in points]
        axes.fill_between(steps, lows, highs, color=NOISE, alpha=0.2, linewidth=0)
        axes.plot(steps, [moment.b or 0.0 for moment in points], color=NOISE, **label)
        if len(points) == 1:
            axes.plot(steps, [points[0].b or 0.0], color=NOISE, marker="o", markersize=4)
        label = {}


def _draw_bound(axes: "Axes", moments: Sequence[Moment]) -> None:
    label: dict[str, Any] = {"label": "lower bound, where it is not resolved"}
    for resolved, stretch in groupby(moments, key=_is_resolved):
        points = [moment for moment in stretch if moment.low]
        if resolved or not points:
            continue
        steps = [moment.step for moment in points]
        lows = [moment.low or 0.0 for moment in points]
        axes.plot(steps, lows, color=NOISE, linestyle=":", marker="^", markersize=3, **label)
        label = {}


def _is_resolved(moment: Moment) -> bool:
    return None not in (moment.b, moment.low, moment.high)


def _draw_trade_off(axes: "Axes", part: RunPart | None, unit: str) -> None:
    if part is None or not part.b:
        axes.set_axis_off()
        axes.text(
            0.5,
            0.5,
            "no trade-off: the noise scale is not resolved",
            transform=axes.transAxes,
            ha="center",
            color="0.35",
        )
        return
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(f"batch size, {unit}")
    axes.set_ylabel("relative to the minimum")
    b = part.b
    least, greatest = min(b / SPAN, part.size / 2), max(b * SPAN, part.size * 2)
    sizes = [least * (greatest / least) ** (i / 60) for i in range(61)]
    steps = [steps_factor(size, b) for size in sizes]
    examples = [examples_factor(size, b) for size in sizes]
    axes.plot(sizes, steps, color=NOISE, label="optimizer steps")
    axes.plot(sizes, examples, color=INK, linestyle="-.", label=unit)
    if part.low and part.high:
        few = [steps_factor(size, part.low) for size in sizes]
        many = [steps_factor(size, part.high) for size in sizes]
        axes.fill_between(sizes, few, many, color=NOISE, alpha=0.15, linewidth=0)
        few = [examples_factor(size, part.high) for size in sizes]
        many = [examples_factor(size, part.low) for size in sizes]
        axes.fill_between(sizes, few, many, color=INK, alpha=0.1, linewidth=0)
    axes.axvline(part.size, color=SIZE, linestyle="--", linewidth=1.8)
    axes.annotate(
        f"you are here: {in_digits(part.size)}",
        (part.size, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        color=SIZE,
    )
    plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.xaxis.set_major_formatter(lambda value, _: in_digits(value))
