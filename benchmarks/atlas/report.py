"""The tables of the atlas, made of the rows of both benchmarks."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from statistics import median
from typing import Any

from benchmarks.atlas import prediction
from benchmarks.atlas.atlas_study import BENCHMARK as STUDY
from benchmarks.atlas.averages import Averages, Bounded
from benchmarks.atlas.cases import GEOMETRIES, Case, cases
from benchmarks.atlas.prediction import Point, Score
from benchmarks.atlas.task import EARLY, LATE
from benchmarks.atlas.tasks import TASKS
from benchmarks.harness.rows import committed
from benchmarks.harness.tables import MISSING, markdown, number_cell

PAPER = {  # McCandlish et al. 2018, table 1: B_crit at the start and on average, B_simple likewise
    "MNIST": (20, 200, 50, 900),
    "SVHN": (50, 500, 300, 4_000),
    "CIFAR10": (300, 900, 400, 2_000),
    "Autoencoder SVHN": (10, 40, 2, 2),
    "VAE SVHN": (10, 200, 10, 10),
    "Billion Word LSTM": (700, 1e5, 1000, 1.5e5),
}
WORDS = {
    "start": "at the start",
    "steps": "mean over steps",
    "progress": "mean over progress",
    "goal": "at the goal",
}
USUAL = "B_simple, mean over steps"
OF_PROGRESS = "B_simple, mean over progress"


def all_cases(noise_rows: Sequence[Any]) -> list[Case]:
    """All goals of all tasks, with the committed studies."""
    return _cases(tuple(noise_rows), tuple(committed(STUDY)))


@cache
def _cases(noise_rows: tuple[Any, ...], study_rows: tuple[Any, ...]) -> list[Case]:
    return cases(noise_rows, study_rows)


def number(value: float) -> str:
    """Three digits; an arrow for what is unbounded."""
    if math.isinf(value):
        return "∞"
    return f"{float(f'{value:.3g}'):,.10g}".replace(",", " ")


def with_interval(value: float, low: float | None, high: float | None, unit: int = 1) -> str:
    """A value with its ends; a dash for an end that is open."""
    ends = []
    for end in (low, high):
        ends.append("–" if end is None or math.isinf(end) else number(end * unit))
    return f"{number(value * unit)} [{ends[0]}, {ends[1]}]"


def b_crit_cell(case: Case) -> str:
    """In the unit of the task."""
    if case.fit is None:
        return MISSING
    unit = TASKS[case.task].per_example
    return with_interval(case.fit.b_crit, case.fit.low, case.fit.high, unit)


def average_cell(case: Case, geometry: str, average: str) -> str:
    """In the unit of the task."""
    found = case.averages.get((geometry, average))
    if found is None:
        return MISSING
    return with_interval(*found, TASKS[case.task].per_example)


def of_goals(found: Iterable[Case], *names: str) -> list[Case]:
    """The cases of these goals."""
    return [case for case in found if case.goal in names]


def main_table(rows: Sequence[Any]) -> str:
    """B_crit beside B_simple, a line for each task and goal."""
    lines = []
    for case in of_goals(all_cases(rows), EARLY, LATE):
        task = TASKS[case.task]
        ratio = MISSING
        if case.fit is not None:
            ratio = number(case.averages["euclidean", "progress"].value / case.fit.b_crit)
        simple = [average_cell(case, "euclidean", average) for average in Averages._fields]
        paper = MISSING
        if task.paper:
            b_crit, b_simple = PAPER[task.paper][1::2]
            paper = f"{task.paper}: {number(b_crit)}, {number(b_simple)}"
        lines.append((task.title, task.unit, case.goal, b_crit_cell(case), *simple, ratio, paper))
    heads = [f"B_simple {WORDS[name]}" for name in Averages._fields]
    head = ("task", "unit", "goal", "B_crit", *heads, "over progress / B_crit", "MC18, averages")
    return markdown(head, lines)


def geometry_table(rows: Sequence[Any]) -> str:
    """The mean over progress in every geometry, a line for each task and goal."""
    lines = []
    for case in of_goals(all_cases(rows), EARLY, LATE):
        cells = [average_cell(case, geometry, "progress") for geometry in GEOMETRIES]
        runs = f"{case.seeds} of {case.seeds + case.failed}"
        size = number(case.global_size * TASKS[case.task].per_example)
        lines.append((TASKS[case.task].title, case.goal, size, runs, b_crit_cell(case), *cells))
    head = ("task", "goal", "batch size", "runs to the goal", "B_crit", *GEOMETRIES.values())
    return markdown(head, lines)


# ---- prediction ---------------------------------------------------------------------------------


def points_of(found: Sequence[Case], goal: str) -> list[Point]:
    """A point for each task whose B_crit has both ends, in its unit."""
    points = []
    for case in of_goals(found, goal):
        if case.fit is None or not case.is_bounded:
            continue
        task = TASKS[case.task]
        kind = "SGD without momentum"
        if task.optimizer in ("momentum", "Adam"):
            kind = "momentum or Adam"
        b_crit = case.fit.b_crit * task.per_example
        points.append(Point(case.task, kind, b_crit, values_of(case)))
    return points


def values_of(case: Case) -> dict[str, float]:
    """All statistics by name, in the unit of the task.

    The metric of SGD, with momentum or without, is the Euclidean one.
    """
    values = {}
    unit = TASKS[case.task].per_example
    has_metric = "optimizer" in TASKS[case.task].geometries
    for geometry, name in GEOMETRIES.items():
        source = geometry
        if geometry == "optimizer" and not has_metric:
            source = "euclidean"
        for average in Averages._fields:
            bounded = case.averages.get((source, average), Bounded(math.inf, 0, 0))
            if 0 < bounded.value < math.inf:
                values[f"{name}, {WORDS[average]}"] = bounded.value * unit
    return values


def names_of(points: Sequence[Point]) -> list[str]:
    """The statistics that all points have."""
    return [name for name in points[0].values if all(name in point.values for point in points)]


def factor_cell(score: Score) -> str:
    """exp of an rms and of its ends."""
    return with_interval(math.exp(score.rms), math.exp(score.low), math.exp(score.high))


def statistics_table(rows: Sequence[Any]) -> str:
    """How far every statistic is from B_crit of the late goals, a line for each."""
    points = points_of(all_cases(rows), LATE)
    lines = []
    for geometry in GEOMETRIES.values():
        for words in WORDS.values():
            name = f"{geometry}, {words}"
            having = [point for point in points if name in point.values]
            lines.append((name, str(len(having)), *score_cells(having, name)))
    return markdown(("statistic", "tasks", *SCORES), lines)


SCORES = (
    "median of value / B_crit",
    "typical factor off",
    "with one factor chosen on other tasks",
    "rank correlation",
)


def score_cells(points: Sequence[Point], name: str) -> tuple[str, ...]:
    """Cells of a statistic; dashes where fewer than four tasks have it."""
    if len(points) < 4:
        return (MISSING,) * len(SCORES)
    ratios = [math.exp(point.error(name)) for point in points]
    direct = prediction.scored(points, partial(prediction.direct_errors, name=name))
    fitted = prediction.scored(points, partial(prediction.left_out_errors, names=[name]))
    correlation = number_cell(prediction.rank_correlation(points, name), ".2f")
    return number(median(ratios)), factor_cell(direct), factor_cell(fitted), correlation


def rules(points: Sequence[Point]) -> dict[str, Callable[[Sequence[Point]], Sequence[float]]]:
    """Ways to predict B_crit of a task from other tasks and from one run of its own."""
    return {
        "no measurement: the geometric mean of the other tasks": prediction.left_out_constant,
        f"{USUAL}, as it is": partial(prediction.direct_errors, name=USUAL),
        f"{USUAL}, times a factor of other tasks": partial(
            prediction.left_out_errors, names=[USUAL]
        ),
        f"{USUAL}, times a factor of other tasks with or without momentum": partial(
            prediction.left_out_by_kind, name=USUAL
        ),
        "statistic and factor of other tasks": partial(
            prediction.left_out_errors, names=names_of(points)
        ),
    }


def prediction_table(rows: Sequence[Any]) -> str:
    """Whether a choice made on other tasks helps, a line for each way to predict."""
    points = points_of(all_cases(rows), LATE)
    if len(points) < 4:
        return "Fewer than four tasks have a B_crit with both ends."
    known = rules(points)
    usual = known[f"{USUAL}, as it is"]
    lines = []
    for name, errors_of in known.items():
        score = prediction.scored(points, errors_of)
        gap = prediction.difference(points, errors_of, usual)
        lines.append((name, factor_cell(score), factor_cell(gap)))
    head = ("way to predict", "typical factor off", f"relative to {USUAL}, as it is")
    return markdown(head, lines)


def kind_table(rows: Sequence[Any]) -> str:
    """Value / B_crit of the usual statistic and of its mean over progress, by kind of optimizer."""
    points = points_of(all_cases(rows), LATE)
    lines = []
    for kind in dict.fromkeys(point.kind for point in points):
        alike = [point for point in points if point.kind == kind]
        cells = []
        for name in (USUAL, OF_PROGRESS):
            ratios = sorted(math.exp(point.error(name)) for point in alike)
            cells.append(with_interval(median(ratios), ratios[0], ratios[-1]))
        lines.append((kind, str(len(alike)), *cells))
    head = ("optimizer", "tasks", f"{USUAL}, over B_crit: median [least, greatest]")
    return markdown((*head, f"{OF_PROGRESS}, likewise"), lines)
