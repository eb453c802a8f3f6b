"""Tables and figure of ``precision``, from its rows."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cost.precision_loop import DEFAULT, EXACT, VARIANTS
from benchmarks.cost.precision_rows import (
    Added,
    Row,
    added,
    half_width_after,
    median_steps,
    needed,
    points_of,
    undisturbed,
)
from benchmarks.harness.rounds import LEAST_ROUNDS, Ratio, median_of
from benchmarks.harness.tables import MISSING, interval, markdown, number_cell, percent

EVERY = (1, 3, 10)
DECAY = 0.99  # the default
WINDOW = (1 + DECAY) / (1 - DECAY)  # effective steps
ALL = "geometric mean"


class Way(NamedTuple):
    """A line of the table: a variant, and whether its micro-batches serve the measurement alone."""

    name: str
    variant: str
    divided: bool = False


DIVIDED = tuple(variant for variant in VARIANTS if variant.parts > 1)
WAYS = (
    *(Way(variant.name, variant.name) for variant in VARIANTS),
    *(Way(f"split={variant.parts}", variant.name, divided=True) for variant in DIVIDED),
)


def models_of(rows: Sequence[Row]) -> list[str]:
    """In the order of measuring."""
    return list(dict.fromkeys(row.model for row in rows))


# ---- overhead -----------------------------------------------------------------------------------


def overhead(rows: Sequence[Row], model: str, way: Way, every: int) -> Ratio:
    """CPU seconds until the goal: median over the rounds, with its interval."""
    steps = median_steps(rows, model, way.variant)
    by_round = added(rows, model, way.variant, "cpu_seconds").values()
    return median_of([steps * times.in_cycle(every, divided=way.divided) for times in by_round])


def relative_steps(rows: Sequence[Row], model: str, variant: str, base: str) -> Ratio:
    """Measured steps until the goal beside those of another variant on the same batches; the ends
    are the range over the series.
    """
    mine, others = needed(rows, model, variant), needed(rows, model, base)
    ratios = []
    for number, reached in mine.items():
        if number in others:
            ratios.append(reached.steps / others[number].steps)
    found = median_of(ratios)
    return found._replace(low=min(ratios, default=math.nan), high=max(ratios, default=math.nan))


def relative_overhead(rows: Sequence[Row], model: str, way: Way) -> Ratio:
    """Overhead until the goal beside the median of the default's, every step measured; the interval
    is that of the rounds of ``way``.
    """
    steps = relative_steps(rows, model, way.variant, DEFAULT).median
    mine = added(rows, model, way.variant, "cpu_seconds").values()
    defaults = added(rows, model, DEFAULT, "cpu_seconds").values()
    default = median_of([times.in_cycle(1) for times in defaults]).median
    costs = [times.in_cycle(1, divided=way.divided) for times in mine]
    return median_of([steps * cost / default for cost in costs])


def overhead_table(rows: Sequence[Row]) -> str:
    """Seconds until the goal, and which number of sketches needs the fewest."""
    lines = []
    relative: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for model in models_of(rows):
        for way in WAYS:
            cells = [interval(overhead(rows, model, way, every), ".3g") for every in EVERY]
            ratio = relative_overhead(rows, model, way)
            relative[way.name].append(ratio.median)
            lines.append((model, way.name, *cells, interval(ratio, ".2f")))
    for name, ratios in relative.items():
        lines.append((ALL, name, *[MISSING] * len(EVERY), number_cell(_mean_of(ratios), ".2f")))
    often = ("every step, CPU s [95 %]", "every 3rd step", "every 10th step")
    return markdown(("model", "measured by", *often, "every step, relative to 1 sketch"), lines)


def _mean_of(ratios: Iterable[float]) -> float:
    found = list(ratios)
    if not all(ratio > 0 for ratio in found):
        return math.nan
    return statistics.geometric_mean(found)


# ---- steps --------------------------------------------------------------------------------------


def steps_table(rows: Sequence[Row]) -> str:
    """Measured steps until the goal."""
    lines = []
    for model in models_of(rows):
        for variant in VARIANTS:
            lines.append((model, variant.name, *_steps_cells(rows, model, variant.name)))
    head = (
        "model",
        "groups",
        "B_simple",
        "measured steps until ±20 % [range]",
        "relative to exact norms [range]",
        "steps of the run, every 3rd measured",
        "every 10th",
        f"±% at decay {DECAY}",
    )
    return markdown(head, lines)


def _steps_cells(rows: Sequence[Row], model: str, variant: str) -> list[str]:
    reached = list(needed(rows, model, variant).values())
    if not reached:
        return [MISSING] * 6
    steps = [one.steps for one in reached]
    found = Ratio(statistics.median(steps), min(steps), max(steps))
    mark = ""
    if sum(one.extrapolated for one in reached) > len(reached) / 2:
        mark = "≈ "
    series = points_of(rows, model, variant).values()
    widths = [half_width_after(WINDOW, points) for points in series]
    return [
        number_cell(_last_scale(rows, model, variant), ".0f"),
        mark + interval(found, ".0f"),
        interval(relative_steps(rows, model, variant, EXACT), ".2f"),
        *(number_cell(every * found.median, ".0f") for every in EVERY[1:]),
        percent(statistics.median(widths), 0),
    ]


def _last_scale(rows: Sequence[Row], model: str, variant: str) -> float:
    last: dict[int, float] = {}
    for row in rows:
        if (row.part, row.model, row.variant) == ("steps", model, variant) and row.noise_scale:
            last[row.round] = row.noise_scale
    return median_of(list(last.values())).median


# ---- cost ---------------------------------------------------------------------------------------


def cost_table(rows: Sequence[Row]) -> str:
    """What single steps add."""
    lines = []
    for model in models_of(rows):
        for variant in VARIANTS:
            lines.append((model, variant.name, *_cost_cells(rows, model, variant.name)))
    head = (
        "model",
        "variant",
        "undisturbed rounds",
        "plain step, ms",
        "dividing adds, ms",
        "a measured step adds, CPU ms [95 %]",
        "by the clock, ms [95 %]",
        "among others, CPU ms [95 %]",
        "the next step adds, µs",
        "later ones, µs",
    )
    return markdown(head, lines)


def _cost_cells(rows: Sequence[Row], model: str, variant: str) -> list[str]:
    cpu = list(added(rows, model, variant, "cpu_seconds").values())
    wall = list(undisturbed(rows, model, variant).values())
    by_clock = MISSING
    if len(wall) >= LEAST_ROUNDS:
        by_clock = _milliseconds(wall, "measured")
    return [
        f"{len(wall)} of {len(cpu)}",
        number_cell(1e3 * _median(cpu, "plain"), ".1f"),
        number_cell(1e3 * _median(cpu, "dividing"), ".1f"),
        _milliseconds(cpu, "measured"),
        by_clock,
        _milliseconds(cpu, "among_others"),
        number_cell(1e6 * _median(cpu, "first"), ".0f"),
        number_cell(1e6 * _median(cpu, "later"), ".0f"),
    ]


def _median(times: Sequence[Added], field: str) -> float:
    return median_of([getattr(one, field) for one in times]).median


def _milliseconds(times: Sequence[Added], field: str) -> str:
    return interval(median_of([1e3 * getattr(one, field) for one in times]), ".2f")


# ---- figure -------------------------------------------------------------------------------------


def draw(rows: Sequence[Row], path: Path) -> None:
    """Overhead until the goal, one panel per model, one line per way to measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = models_of(rows)
    figure = Figure(figsize=(11, 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for panel, model in zip(panels, models, strict=True):
        for every, color, lift in ((1, "#1f77b4", -0.15), (10, "#d62728", 0.15)):
            found = [overhead(rows, model, way, every) for way in WAYS]
            places = [place + lift for place in range(len(WAYS))]
            middle = [one.median for one in found]
            errors = ([m.median - m.low for m in found], [m.high - m.median for m in found])
            label = "every step" if every == 1 else f"every {every}th step"
            panel.errorbar(middle, places, xerr=errors, fmt="o", ms=4, color=color, label=label)
        panel.set(xscale="log", title=model, xlabel="CPU seconds of overhead until ±20 %")
        panel.grid(alpha=0.3, which="both")
    panels[0].set_yticks(range(len(WAYS)), [way.name for way in WAYS])
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=8)
    figure.savefig(path)
