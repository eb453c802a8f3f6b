"""The tables of the curves that one run predicts, and of what the whole atlas says."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.atlas import prediction
from benchmarks.atlas.averages import curve
from benchmarks.atlas.cases import Case
from benchmarks.atlas.prediction import Point
from benchmarks.atlas.report import (
    OF_PROGRESS,
    USUAL,
    all_cases,
    names_of,
    number,
    of_goals,
    points_of,
)
from benchmarks.atlas.task import LATE
from benchmarks.atlas.tasks import TASKS
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise.tradeoff import steps_factor

NEAR = 1.5  # a factor
FEWEST = 4  # tasks of which anything can be said


def curve_errors(case: Case, geometry: str) -> dict[float, float]:
    """ln(predicted / measured steps) at every other batch size, from one run's progress."""
    if geometry not in case.groups:
        return {}
    predicted = curve(case.groups[geometry], case.global_size)
    return _errors(case, predicted.steps)


def constant_errors(case: Case) -> dict[float, float]:
    """The same from one number for the whole run: the mean of B_simple over steps."""
    scale = case.averages["euclidean", "steps"].value
    run = math.fsum(group.steps for group in case.groups["euclidean"])
    least = run / steps_factor(case.global_size, scale)
    return _errors(case, lambda size: least * steps_factor(size, scale))


def scaling_errors(case: Case) -> dict[float, float]:
    """The same from no measurement: perfect scaling, steps inverse to the batch size."""
    run = math.fsum(group.steps for group in case.groups["euclidean"])
    return _errors(case, lambda size: run * case.global_size / size)


def _errors(case: Case, predicted: Callable[[float], float]) -> dict[float, float]:
    found = {}
    for size, steps in case.steps.items():
        if size != case.global_size:
            found[size] = math.log(predicted(size) / steps)
    return found


def curve_table(rows: Sequence[Any]) -> str:
    """Steps at other batch sizes, predicted from one run, over the measured ones."""
    lines = []
    everything: list[list[float]] = [[], [], [], []]
    for case in of_goals(all_cases(rows), LATE):
        simple = curve_errors(case, "euclidean")
        ends = [number(math.exp(simple[size])) for size in (min(simple), max(simple))]
        noise = curve_errors(case, "hessian")
        ways = (simple, constant_errors(case), noise, scaling_errors(case))
        for known, errors in zip(everything, ways, strict=True):
            known += errors.values()
        factors = [rms_cell(list(errors.values())) for errors in ways]
        lines.append((TASKS[case.task].title, str(case.global_size), *ends, *factors))
    lines.append(("all", "", "", "", *map(rms_cell, everything)))
    return markdown(CURVE_HEAD, lines)


CURVE_HEAD = (
    "task",
    "run at",
    "predicted / measured at the smallest size",
    "at the largest",
    "typical factor off, B_simple over progress",
    "one mean of B_simple over steps",
    "B_noise over progress",
    "perfect scaling",
)


def rms_cell(errors: Sequence[float]) -> str:
    """exp of a root mean square of logarithms."""
    if not errors:
        return MISSING
    return number(math.exp(prediction.rms(errors)))


def findings_table(rows: Sequence[Any]) -> str:
    """Single numbers that the page speaks of."""
    found = all_cases(rows)
    points = points_of(found, LATE)
    late = of_goals(found, LATE)
    if len(points) < FEWEST:
        return f"Fewer than {FEWEST} tasks have a B_crit with both ends."
    greatest = max(abs(point.error(USUAL)) for point in points)
    errors: list[float] = []
    for case in late:
        errors += curve_errors(case, "euclidean").values()
    near = sum(abs(error) < math.log(NEAR) for error in errors)
    lines = [
        ("tasks whose late goal has a B_crit with both ends", f"{len(points)} of {len(late)}"),
        (f"greatest factor between B_crit and {USUAL}", number(math.exp(greatest))),
        ("statistics chosen on the other tasks", chosen_cell(points)),
        (f"typical factor off in tasks with Adam, {OF_PROGRESS}", adam_cell(points, OF_PROGRESS)),
        (
            f"typical factor off in tasks with Adam, {OF_METRIC}",
            adam_cell(points, OF_METRIC),
        ),
        (
            f"steps at other batch sizes that one run predicts within a factor {NEAR}",
            f"{near} of {len(errors)}",
        ),
    ]
    return markdown(("", "value"), lines)


OF_METRIC = "B_optimizer, mean over progress"


def chosen_cell(points: Sequence[Point]) -> str:
    """What :func:`prediction.left_out_errors` chose, and for how many tasks."""
    counted: Counter[str] = Counter()
    for point in points:
        others = [other for other in points if other.group != point.group]
        counted[prediction.best_of(others, names_of(points))[0]] += 1
    return "; ".join(f"{name}: {times}" for name, times in counted.most_common())


def adam_cell(points: Sequence[Point], name: str) -> str:
    """exp of the root mean square over tasks with Adam that have the statistic."""
    errors = []
    for point in points:
        if TASKS[point.group].optimizer == "Adam" and name in point.values:
            errors.append(point.error(name))
    return f"{rms_cell(errors)} ({len(errors)} tasks)"
