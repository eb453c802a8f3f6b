"""TensorBoard's page *custom scalars*: B_simple, its interval and the batch size, on a log10 axis.

The form of what is written here follows from how TensorBoard (2.21) works:

- A chart of bands takes complete series only, all at the same steps. So where B_simple is not
  resolved the line continues along the lower end, which is valid there too, and the band is
  ``OPEN`` times as high as the line.
- It drops the points of a polygon whose *upper* margin is off the axis, and fits the axis to the
  inner 90 % of all values. So the band is two polygons, and the upper margin of both is the point
  of the interval that is nearest to the batch size: while the batch size is on the axis, so is that
  point wherever any part of the band is.
- Colors belong to runs. So the batch size is a separate run, in a folder below the logger's, under
  the tag of the line.
- A run has one layout, the last one written, and the layouts of different runs are merged. So this
  one is in that folder too: it neither replaces a layout that the user writes with
  ``add_custom_scalars`` nor is replaced by it.
- A chart leaves out the points that its axis does not reach: in a short unresolved stretch the
  lower end may lie below the axis. And the bands and batch sizes of several runs cover each other.
  So a second chart has one line per run, the lower end relative to the batch size.
- "Missing Tags" stands below a chart if a run lacks some of its tags, but not if it lacks three, as
  the batch size does.
"""

import re
from collections.abc import Mapping
from math import log10
from typing import Any, NamedTuple

BAND = "noise_scale_band/"
FOLDER = "batch_size"
OPEN = 100.0  # a larger one would squeeze what is known, a smaller one looks like an upper bound
# More than three lines of a title cover the chart below it: about 45 characters each.
TITLE = (
    "Curve above the batch size: a larger batch pays (log10 of B_simple, its 95 % interval and the "
    "batch size; on the lower edge: not resolved)"
)
RATIO = (
    "Above 0: a larger batch pays, also where B_simple is not resolved (log10 of its lower end "
    "over the batch size)"
)


class Interval(NamedTuple):
    """One noise scale at a step, in examples; ``None`` where a value cannot be determined."""

    low: float
    noise_scale: float | None
    high: float | None
    global_size: float | None


class Tags(NamedTuple):
    """The names of an optimizer's series."""

    line: str
    low: str
    high: str
    nearest: str
    ratio: str


class Points(NamedTuple):
    """What these series hold at a step; ``ratio`` is ``None`` without a batch size."""

    line: float
    low: float
    high: float
    nearest: float
    ratio: float | None


def tags(optimizer: str) -> Tags:
    """The names of an optimizer's series; "" where there is one optimizer.

    >>> tags("").line, tags("Adam-1").low
    ('noise_scale_band/log10', 'noise_scale_band/Adam-1/log10_low')
    """
    line = f"{BAND}log10"
    if optimizer:
        line = f"{BAND}{optimizer}/log10"
    return Tags(
        line=line,
        low=f"{line}_low",
        high=f"{line}_high",
        nearest=f"{line}_nearest",
        ratio=f"{line}_low_over_size",
    )


def points(interval: Interval) -> Points:
    """What is drawn of an interval, as log10.

    >>> resolved = Interval(low=50.0, noise_scale=100.0, high=300.0, global_size=25.0)
    >>> [round(10**point) for point in points(resolved)]
    [100, 50, 300, 50, 2]
    >>> unresolved = Interval(low=50.0, noise_scale=None, high=None, global_size=25.0)
    >>> [round(10**point) for point in points(unresolved)]
    [50, 50, 5000, 50, 2]
    """
    line = interval.low
    if interval.noise_scale is not None:
        line = interval.noise_scale
    high = line * OPEN
    if interval.high is not None:
        high = min(interval.high, high)
    size = interval.global_size or line
    nearest = min(max(size, interval.low), high)
    ratio = None
    if interval.global_size:
        ratio = log10(interval.low / interval.global_size)
    return Points(
        line=log10(line),
        low=log10(interval.low),
        high=log10(high),
        nearest=log10(nearest),
        ratio=ratio,
    )


def show(writer: Any, intervals: Mapping[str, Interval | None], step: int) -> None:
    """Writes the points of every optimizer that has an interval; before the first, the layout.

    ``writer`` is the ``SummaryWriter`` of a logger; ``intervals`` are keyed by optimizer.
    """
    for name, interval in intervals.items():
        if interval is None:
            continue
        names = tags(name)
        for tag, point in zip(names, points(interval), strict=True):
            if point is not None:
                writer.add_scalar(tag, point, step)
        run = _batch_size_run(writer, list(intervals))
        if interval.global_size:
            size = log10(interval.global_size)
            _add_size(run, names, size, step)


def _add_size(run: Any, names: Tags, size: float, step: int) -> None:
    from torch.utils.tensorboard.summary import scalar

    for tag in (names.line, names.nearest):
        run.add_summary(scalar(tag, size), step)


def _batch_size_run(writer: Any, optimizers: list[str]) -> Any:
    """The ``FileWriter`` of the batch size's run.

    Among ``all_writers`` it is flushed and closed with the logger's own.
    """
    from torch.utils.tensorboard import FileWriter  # 0.1 s, needed with a TensorBoardLogger alone

    folder = f"{writer.get_logdir()}/{FOLDER}"
    if folder not in writer.all_writers:
        run = FileWriter(folder)
        run.add_summary(layout(optimizers))
        writer.all_writers[folder] = run
    return writer.all_writers[folder]


def layout(optimizers: list[str]) -> Any:
    """The ``Summary`` that makes the page; ``add_custom_scalars`` would take one series per chart.

    A category holds one optimizer: TensorBoard then finds the same chart in categories of the same
    name, and shows it once.
    """
    # tensorboard ships no types
    from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
    from torch.utils.tensorboard.summary import custom_scalars

    categories = []
    for name in optimizers:
        names = tags(name)
        bands = [one._asdict() for one in series(names)]
        band_chart = layout_pb2.Chart(title=TITLE, margin={"series": bands})
        ratio = re.escape(names.ratio)
        ratio_chart = layout_pb2.Chart(title=RATIO, multiline={"tag": [f"{ratio}$"]})
        title = "noise scale"
        if name:
            title = f"noise scale of {name}"
        category = layout_pb2.Category(title=title, chart=[band_chart, ratio_chart])
        categories.append(category)
    summary = custom_scalars({})
    text = layout_pb2.Layout(category=categories).SerializeToString()
    summary.value[0].tensor.string_val[0] = text
    return summary


class Series(NamedTuple):
    """One series of a chart of bands: the tags of its line and of the two edges of its polygon."""

    value: str
    lower: str
    upper: str


def series(names: Tags) -> list[Series]:
    """The batch size, then B_simple with the band below, and the lower end with the band above.

    The first two have the same name: where there is an interval, the second replaces the first.
    """
    return [
        Series(value=names.line, lower=names.line, upper=names.line),
        Series(value=names.line, lower=names.low, upper=names.nearest),
        Series(value=names.low, lower=names.high, upper=names.nearest),
    ]
