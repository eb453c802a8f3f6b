"""What search trials give for a fixed budget: the best value, and how many of them reach a goal."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_noise.report.runs import Run, by_size, count_reached, runs_of, searches_of
from lightning_noise.report.table import Row, of_goal

LEAST_SIZES = 2  # for a figure


class FixedBudget(NamedTuple):
    """What the trials of one goal gave for their budget.

    Attributes:
        goal: its name.
        mode: "min" or "max": which of two values is better.
        metric: of the goal; None in a table without the column.
        target: of the goal; None in a table without the column.
        best: batch size → best value of the metric in any trial.
        shares: batch size → share of the trials that reached the goal.
        trials: batch size → number of the trials that ``shares`` counts.

    Source: Shallue et al. 2018, figure 12 (``best``), and figures 9 and 10 (``shares``).
    """

    goal: str
    mode: str
    metric: str | None
    target: float | None
    best: dict[float, float]
    shares: dict[float, float]
    trials: dict[float, int]


def fixed_budget(rows: Iterable[Row], goal: str) -> FixedBudget | None:
    """Of the search trials of one goal.

    None where a table does not record which runs were ended before their budget, or where fewer
    than two batch sizes have only trials with their full budget.
    """
    mine = of_goal(rows, goal)
    if not all("pruned" in row for row in mine):
        return None
    runs = runs_of(mine)
    best = best_values(runs)
    if len(best) < LEAST_SIZES:
        return None
    trials = {}
    for size, here in by_size(_evenly_spread(runs)).items():
        trials[size] = len(here)
    return FixedBudget(
        goal=goal,
        mode=mode_of(runs),
        metric=mine[0].get("metric"),
        target=mine[0].get("target"),
        best=best,
        shares=share_reached(runs),
        trials=trials,
    )


def best_values(runs: Sequence[Run], mode: str | None = None) -> dict[float, float]:
    """Batch size → best value of any search trial.

    Sizes where a trial was ended before its budget are absent. ``mode`` is "min" or "max"; None:
    that of the goal.
    """
    choose = min
    if (mode or mode_of(runs)) != "min":
        choose = max
    found = {}
    for size, here in by_size(searches_of(runs)).items():
        values = [run.best_value for run in here if run.best_value is not None]
        if values and not any(run.pruned for run in here):
            found[size] = choose(values)
    return found


def share_reached(runs: Sequence[Run]) -> dict[float, float]:
    """Batch size → share of the evenly spread search trials that reach the goal.

    Sizes where a trial was ended before its budget without having reached the goal are absent.
    """
    shares = {}
    for size, here in by_size(_evenly_spread(runs)).items():
        if not any(run.cut_short for run in here):
            shares[size] = count_reached(here) / len(here)
    return shares


def _evenly_spread(runs: Iterable[Run]) -> list[Run]:
    """Neither what was added to a range nor a closer search counts."""
    return [run for run in searches_of(runs) if not (run.widened or run.refined)]


def mode_of(runs: Iterable[Run]) -> str:
    """That of the goal of these runs; "min" in a table without the column."""
    for run in runs:
        if run.mode:
            return run.mode
    return "min"
