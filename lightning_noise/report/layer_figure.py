"""The noise scale of every layer over a run, as a map of colours."""

import math
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import TYPE_CHECKING, NamedTuple

from lightning_noise.report.axes import colours, new_figure, plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 60
MOST_NAMES = 40
LONGEST = 34  # characters of a name
UNKNOWN = "0.85"


class LayerMap(NamedTuple):
    """What the map shows.

    Args:
        layers: names, in the order of the log.
        edges: the steps at which columns begin, and the last step.
        cells: a row for each layer: the geometric mean of the noise scale in each column; ``None``
            where it was not resolved.
    """

    layers: list[str]
    edges: list[float]
    cells: list[list[float | None]]


def layer_map(layers: Mapping[str, Mapping[int, float]], steps: Sequence[int]) -> LayerMap:
    """The map of layers, with a bounded number of columns.

    Args:
        layers: noise scales by step for each layer.
        steps: at which something was logged, in order; at least one.

    >>> layer_map({"a": {0: 10.0, 1: 1000.0, 2: 5.0}, "b": {2: 7.0}}, [0, 1, 2]).cells
    [[10.0, 1000.0, 5.0], [None, None, 7.0]]
    """
    every = math.ceil(len(steps) / MOST_COLUMNS)
    columns = [steps[i : i + every] for i in range(0, len(steps), every)]
    cells = []
    for series in layers.values():
        cells.append([_mean(series, column) for column in columns])
    width = 1.0
    if len(steps) > 1:
        width = (steps[-1] - steps[0]) / (len(steps) - 1)
    edges = [float(column[0]) for column in columns]
    return LayerMap(list(layers), [*edges, steps[-1] + width], cells)


def _mean(series: Mapping[int, float], steps: Sequence[int]) -> float | None:
    known = []
    for step in steps:
        value = series.get(step)
        if value is not None and value > 0:
            known.append(value)
    if len(known) < 2:
        return known[0] if known else None
    return geometric_mean(known)


def draw_layers(found: LayerMap) -> "Figure":
    """Layers by steps, the colour being the logarithm of the noise scale; grey: not resolved.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
        ValueError: no layer has a value.
    """
    known = [value for row in found.cells for value in row if value is not None]
    if not known:
        raise ValueError("found must hold the noise scale of a layer, got none.")
    figure, axes = new_figure()
    from matplotlib.colors import LogNorm

    rows = len(found.layers)
    figure.set_size_inches(9, 2 + 0.28 * min(rows, MOST_NAMES))
    least, greatest = min(known), max(known)
    if greatest < least * 1.01:
        least, greatest = least / 1.1, greatest * 1.1
    values = [list(map(_drawn, row)) for row in found.cells]
    axes.set_facecolor(UNKNOWN)
    mesh = axes.pcolormesh(
        found.edges,
        range(rows + 1),
        values,
        norm=LogNorm(least, greatest),
        cmap=colours(),
        rasterized=True,  # thousands of cells would make a large file
    )
    bar = figure.colorbar(mesh, ax=axes, label="noise scale of the layer, examples")
    plain_ticks(bar.ax.yaxis, least, greatest)
    every = math.ceil(rows / MOST_NAMES)
    shown = range(0, rows, every)
    axes.set_yticks([row + 0.5 for row in shown])
    # a layer's name may hold what matplotlib takes for mathematics
    short = short_names(found.layers)
    names = [short[row] for row in shown]
    axes.set_yticklabels(names, parse_math=False, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("optimizer step")
    figure.canvas.draw()
    return figure


def _drawn(value: float | None) -> float:
    if value is None:
        return math.nan
    return value


def short_names(names: Sequence[str]) -> list[str]:
    """Without the parts that all names begin with, and shortened in the middle.

    >>> short_names(["model.layers.9.weight", "model.layers.10.weight"])
    ['9.weight', '10.weight']
    >>> short_names(["a_block_of_many.with_a_layer_that_has.a_long_name"])
    ['a_block_of_many.w…_has.a_long_name']
    """
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    if len(names) == 1:
        shared = 0
    return [_short(".".join(one[shared:])) for one in parts]


def _short(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    half = LONGEST // 2
    return f"{name[:half]}…{name[-half + 1 :]}"
