"""What all figures share: an empty figure, an axis of batch sizes, plain numbers on an axis.

Nothing is drawn through pyplot: no window, no global state.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_noise.core.errors import how_to_install
from lightning_noise.report.errors import NoMatplotlibError
from lightning_noise.say.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

B_CRIT = r"$B_\mathrm{crit}$"
MOST_TICKS = 14
ONES = (1.0,)
ONE_TWO_FIVE = (1.0, 2.0, 5.0)


def new_figure() -> "tuple[Figure, Axes]":
    """An empty figure with one pair of axes.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        missing = "figures need matplotlib, which is not installed"
        raise NoMatplotlibError(f"{missing}; {how_to_install('plots')}") from error
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def two_panels(upper: int, lower: int) -> "tuple[Figure, Axes, Axes]":
    """A figure of two panels with a faint grid, one above the other, and their relative heights.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    figure, first = new_figure()
    first.remove()
    figure.set_size_inches(9, 8)
    panels = figure.subplots(2, 1, height_ratios=[upper, lower])
    for axes in panels:
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.6)
    return figure, *panels


def colours() -> "Colormap":
    """Viridis without its yellow end, which is hard to see on white, or inverted on black."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    viridis = colormaps["viridis"]
    return ListedColormap([viridis(0.85 * place / 255) for place in range(256)])


def size_axis(axes: "Axes", sizes: Sequence[float]) -> None:
    """Batch sizes as ticks at the sizes that were tried, thinned to what can be read."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    ticks = sorted(set(sizes))
    shown = ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    labels = [f"{size:g}" for size in shown]
    axes.set_xticks(shown, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("global batch size $B$, examples")


def plain_ticks(axis: "Axis", low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis, closer together where powers of ten would be too few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = math.log10(high / low)
    if decades > 3:
        axis.set_major_locator(LogLocator(subs=ONES))
    elif decades > 0.5:
        axis.set_major_locator(LogLocator(subs=ONE_TWO_FIVE))
    else:
        axis.set_major_locator(LogLocator(subs=range(1, 10)))
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float, _: object) -> str:
    if value < 1e5:
        return number(value)
    power = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10**power)
    if factor == 1:
        return f"$10^{{{power}}}$"
    return rf"${factor}\times10^{{{power}}}$"
