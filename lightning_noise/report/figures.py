"""Figures of a study, from the plain numbers of ``curves`` and ``rates``; to be read in print and in grey.

The one file that needs matplotlib (``pip install lightning-noise[plots]``). It draws without pyplot: no window, no global
state.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_noise.report.curves import Curve, Frontier, Regimes
from lightning_noise.report.fit_text import in_digits, interval
from lightning_noise.report.rates import PRUNED, RateMap, RateRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
GREYS = ("black", "0.35", "0.55", "0.2")


def _figure() -> "tuple[Figure, Axes]":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib, which is not installed: pip install 'lightning-noise[plots]'.") from error
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _size_axis(axes: "Axes", sizes: Sequence[float]) -> None:
    """Batch sizes as ticks at the sizes that were tried, thinned to what can be read."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    ticks = sorted(set(sizes))
    step = math.ceil(len(ticks) / 14)
    axes.set_xticks(ticks[::step], [f"{size:g}" for size in ticks[::step]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("global batch size $B$, examples")


def _plain_ticks(axis: "Axis", low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis, at 1, 2 and 5 where powers of ten alone would be few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.5 else range(1, 10)))
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float, _: object) -> str:
    if value < 1e5:
        return in_digits(value)
    power = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10**power)
    return f"$10^{{{power}}}$" if factor == 1 else rf"${factor}\times10^{{{power}}}$"


def draw_steps(curve: Curve) -> "Figure":
    """Steps against the batch size: runs, fit with its interval, perfect scaling, and the three regimes."""
    figure, axes = _figure()
    sizes = [point.global_size for point in curve.points]
    axes.set_yscale("log")
    if curve.fit is not None and curve.regimes is not None:
        _regimes(axes, curve, curve.regimes)
        fit = curve.fit
        law = rf"fit $S_\mathrm{{min}}(1 + B_\mathrm{{crit}}/B)$: $B_\mathrm{{crit}}$ = {in_digits(fit.b_crit)}"
        axes.plot(curve.sizes, curve.steps, color="black", label=law, zorder=3)
        bounds = rf"$B_\mathrm{{crit}}$: {interval(fit.low, fit.high)}"
        band = f"{100 * curve.confidence:g} % interval of the fit, {bounds}"
        axes.fill_between(curve.sizes, curve.low, curve.high, color="0.72", linewidth=0, label=band)
        axes.plot(curve.sizes, curve.perfect, color="0.35", linestyle="--", label=r"perfect scaling: $E_\mathrm{min}/B$")
        axes.set_ylim(min([*curve.low, *(p.steps for p in curve.points)]) / 1.6, max(curve.high) * 1.8)
    axes.plot(
        sizes,
        [point.steps for point in curve.points],
        linestyle="",
        marker="o",
        markersize=6,
        color="black",
        markerfacecolor="white",
        markeredgewidth=1.2,
        label="runs",
        zorder=4,
    )
    for size, (missed, runs) in curve.missed.items():
        text = f"{missed} of {runs}\nmissed"
        axes.annotate(text, (size, 0.02), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    _size_axis(axes, [*sizes, *curve.missed])
    axes.set_xlim(min([*sizes, *curve.missed]) / 2**0.5, max([*sizes, *curve.missed]) * 2**0.5)
    _plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("optimizer steps to the goal")
    axes.set_title(f"{curve.goal}: steps against the batch size" + ("" if curve.fit else " (no fit)"))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.92), frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def _regimes(axes: "Axes", curve: Curve, regimes: Regimes) -> None:
    """The middle regime on a grey ground, names at the top."""
    left, right = curve.sizes[0], curve.sizes[-1]
    ends = [left, regimes.end_of_perfect_scaling, regimes.start_of_maximal_parallelism, right]
    ends = [min(max(end, left), right) for end in ends]
    names = ("perfect\nscaling", "diminishing\nreturns", "maximal\nparallelism")
    for i, name in enumerate(names):
        start, stop = ends[i], ends[i + 1]
        if stop <= start:
            continue
        if i == 1:
            axes.axvspan(start, stop, color="0.93", linewidth=0)
        for border in (start, stop):
            if left < border < right:
                axes.axvline(border, color="0.6", linewidth=0.8, linestyle=":")
        if math.log(stop / start) > 0.09 * math.log(right / left):
            middle = math.sqrt(start * stop)
            axes.text(middle, 0.985, name, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)


def draw_frontier(frontiers: Sequence[Frontier]) -> "Figure":
    """Examples against steps, one frontier a goal, with the fitted hyperbola and b_crit on it."""
    figure, axes = _figure()
    from matplotlib.lines import Line2D

    axes.set_xscale("log")
    axes.set_yscale("log")
    handles = []
    for i, found in enumerate(frontiers):
        colour, style = GREYS[i % len(GREYS)], STYLES[i % len(STYLES)]
        marks: dict[str, Any] = {
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 6,
            "markerfacecolor": "white" if i % 2 == 0 else colour,
        }
        label = found.goal
        if found.fit is not None:
            fit = found.fit
            axes.plot(found.steps, found.examples, linestyle=style, color=colour)
            axes.plot([2 * fit.s_min], [2 * fit.e_min], "+", color=colour, markersize=16, markeredgewidth=2)
            label += rf": $B_\mathrm{{crit}}$ = {in_digits(fit.b_crit)} [{interval(fit.low, fit.high)}]"
        axes.plot(*zip(*found.points, strict=True), linestyle="", color=colour, **marks)
        handles.append(Line2D([], [], linestyle=style if found.fit else "", color=colour, label=label, **marks))
    axes.set_xlabel("optimizer steps $S$")
    axes.set_ylabel("examples $E = B S$")
    axes.set_title(r"Steps against examples; + where both are twice their least ($B = B_\mathrm{crit}$)")
    axes.grid(color="0.9", linewidth=0.6)
    _plain_ticks(axes.xaxis, *axes.get_xlim())
    _plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.legend(handles=handles, edgecolor="none", loc="best")
    return figure


def draw_rate_map(found: RateMap) -> "Figure":
    """Learning rate × batch size: how each trial ended, dark where it was quick, hatched where it did not reach the goal."""
    figure, axes = _figure()
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    grey = LinearSegmentedColormap.from_list("dark to light", ["0.2", "0.88"])
    norm = Normalize(0, math.log2(4))
    patterns: dict[str, dict[str, Any]] = {
        PRUNED: {"facecolor": "white", "edgecolor": "0.6", "hatch": "..", "linewidth": 0.5},
        "incomplete": {"facecolor": "white", "edgecolor": "0.45", "hatch": "///", "linewidth": 0.5},
        "diverged": {"facecolor": "white", "edgecolor": "black", "hatch": "xxxx", "linewidth": 0.5},
    }
    for cell in found.cells:
        column = found.sizes.index(cell.global_size)
        if cell.excess is not None:
            look: dict[str, Any] = {"facecolor": grey(norm(math.log2(cell.excess))), "edgecolor": "white", "linewidth": 0.5}
        else:
            look = patterns[cell.status]
        axes.add_patch(Rectangle((column - 0.45, cell.low), 0.9, cell.high - cell.low, **look))
        if cell.best:
            marker = "^" if cell.boundary else "*"
            axes.plot(column, cell.learning_rate, marker, color="white", markeredgecolor="black", markersize=11)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(found.sizes) - 0.4)
    axes.set_ylim(min(cell.low for cell in found.cells) / 1.1, max(cell.high for cell in found.cells) * 1.1)
    axes.set_xticks(range(len(found.sizes)), [f"{size:g}" for size in found.sizes])
    axes.set_xlabel("global batch size $B$, examples")
    _plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel("learning rate")
    axes.set_title(f"{found.goal}: how the search trials ended")
    bar = figure.colorbar(ScalarMappable(norm, grey), ax=axes, label="steps, relative to the best trial of the batch size")
    bar.set_ticks([0, 1, 2], labels=["1", "2", "4 or more"])
    star: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 11, "linestyle": ""}
    handles = [
        Patch(facecolor=grey(0.0), label="reached"),
        Patch(label="pruned: could no longer win", **patterns[PRUNED]),
        Patch(label="incomplete: the budget ended first", **patterns["incomplete"]),
        Patch(label="diverged", **patterns["diverged"]),
        Line2D([], [], marker="*", label="best", **star),
        Line2D([], [], marker="^", label="best, on the edge of the search", **star),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_rate_rule(found: RateRule) -> "Figure":
    """The best learning rate against the batch size, the fitted rule, and the linear and square-root rules beside it."""
    figure, axes = _figure()
    axes.set_yscale("log")
    if found.alpha is not None and found.low is not None and found.high is not None:
        alpha = rf"$\alpha$ = {found.alpha:.2f} [{100 * found.confidence:g} %: {found.low:.2f} to {found.high:.2f}]"
        if found.b_star is None:
            law = rf"fit $\epsilon \propto B^\alpha$: {alpha}"
        else:
            b_crit = rf"$B_\mathrm{{crit}}$ = {in_digits(found.b_star)}"
            law = rf"fit $\epsilon_*/(1 + B_\mathrm{{crit}}/B)^\alpha$, {b_crit}: {alpha}"
        axes.plot(found.sizes, found.rates, color="black", label=law)
        axes.plot(found.sizes, found.linear, color="0.45", linestyle="--", label=r"linear rule, $\epsilon \propto B$")
        axes.plot(found.sizes, found.root, color="0.45", linestyle=":", label=r"square-root rule, $\epsilon \propto \sqrt{B}$")
    for boundary, fill, label in (
        (False, "black", "best trial"),
        (True, "white", "best trial on the edge of the search, not in the fit"),
    ):
        here = [point for point in found.points if point.boundary is boundary]
        if here:
            x, y = [point.global_size for point in here], [point.learning_rate for point in here]
            marker = "^" if boundary else "o"
            axes.plot(x, y, marker, color="black", markersize=7, markerfacecolor=fill, label=label)
    _size_axis(axes, [point.global_size for point in found.points])
    rates = [*(point.learning_rate for point in found.points), *found.rates]
    axes.set_ylim(min(rates) / 2, max(rates) * 4)
    _plain_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel(r"learning rate $\epsilon$")
    axes.set_title(f"{found.goal}: best learning rate against the batch size")
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(frameon=False, loc="upper left")
    return figure
