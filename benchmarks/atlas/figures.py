"""The figures of the atlas: predicted against measured, and the curves of every task."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.atlas.averages import curve
from benchmarks.atlas.cases import Case
from benchmarks.atlas.task import EARLY, LATE
from benchmarks.atlas.tasks import TASKS

PANELS = {"euclidean": "B_simple", "hessian": "B_noise"}
MARKERS = "osD^v<>PX*hp8d"
COLUMNS = 4


def draw(found: Sequence[Case], path: Path) -> None:
    """``path`` and a second file ``…_curves`` beside it."""
    draw_scatter(found, path)
    draw_curves(
        [case for case in found if case.goal == LATE],
        path.with_name(f"{path.stem}_curves{path.suffix}"),
    )


def draw_scatter(found: Sequence[Case], path: Path) -> None:
    """Mean over progress against B_crit, both with intervals, a panel for each geometry."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    ends = np.array([1.0, 1e5])
    for ax, (geometry, name) in zip(axes, PANELS.items(), strict=True):
        ax.fill_between(ends, ends / 10, ends * 10, color="0.94", label="within a factor of ten")
        ax.fill_between(ends, ends / 2, ends * 2, color="0.86", label="within a factor of two")
        ax.plot(ends, ends, color="0.4", linewidth=1)
        for number, task in enumerate(dict.fromkeys(case.task for case in found)):
            for case in found:
                if case.task == task and case.goal in (EARLY, LATE):
                    _dot(ax, case, geometry, MARKERS[number % len(MARKERS)], f"C{number % 10}")
        ax.set(xscale="log", yscale="log", xlabel="measured B_crit, units of the task")
        ax.set_title(f"{name}, mean over progress", fontsize=10)
    axes[0].set_ylabel("noise scale of one run")
    _limits(axes[0], found)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _dot(ax: Any, case: Case, geometry: str, marker: str, color: str) -> None:
    average = case.averages.get((geometry, "progress"))
    if case.fit is None or average is None or math.isinf(average.value):
        return
    unit = TASKS[case.task].per_example
    x, low, high = (
        case.fit.b_crit,
        case.fit.low or case.fit.b_crit,
        case.fit.high or case.fit.b_crit,
    )
    top = average.value if math.isinf(average.high) else average.high
    ax.errorbar(
        [x * unit],
        [average.value * unit],
        xerr=[[(x - low) * unit], [(high - x) * unit]],
        yerr=[[(average.value - average.low) * unit], [(top - average.value) * unit]],
        fmt=marker,
        color=color,
        markerfacecolor=color if case.goal == LATE else "white",
        markersize=6,
        linewidth=1,
        label=TASKS[case.task].title if case.goal == LATE else None,
    )


def _limits(ax: Any, found: Sequence[Case]) -> None:
    values = []
    for case in found:
        unit = TASKS[case.task].per_example
        values += [average.value * unit for average in case.averages.values()]
        values += [case.fit.b_crit * unit] if case.fit else []
    finite = [value for value in values if 0 < value < math.inf]
    ax.set(xlim=(min(finite) / 2, max(finite) * 2), ylim=(min(finite) / 2, max(finite) * 2))


def draw_curves(found: Sequence[Case], path: Path) -> None:
    """Measured steps, their fit, and what one run predicts, a panel for each task."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(found) / COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 2.6 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for ax, case in zip(axes, found, strict=False):
        sizes = np.geomspace(min(case.steps), max(case.steps), 50)
        ax.plot(list(case.steps), list(case.steps.values()), "ko", markersize=4, label="measured")
        if case.fit is not None:
            ax.plot(sizes, [case.fit.steps(size) for size in sizes], color="0.5", label="fit")
        for (geometry, name), style in zip(PANELS.items(), ("C0-", "C1--"), strict=True):
            if geometry in case.groups:
                predicted = curve(case.groups[geometry], case.global_size)
                steps = [predicted.steps(size) for size in sizes]
                ax.plot(sizes, steps, style, label=f"from one run, {name}")
        ax.axvline(case.global_size, color="0.8", linewidth=1, zorder=0)
        ax.set(xscale="log", yscale="log")
        ax.set_title(TASKS[case.task].title, fontsize=9)
    for ax in axes[len(found) :]:
        ax.axis("off")
    figure.supxlabel("batch size, examples")
    figure.supylabel("optimizer steps to the late goal")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)
