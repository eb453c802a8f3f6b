"""The rows of a table as records, and which of them count."""

import math
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from lightning_noise.report.table import Row
from lightning_noise.report.terms import INCOMPLETE, REACHED, RERUN, SEARCH

FLAGS = ("best", "boundary", "pruned", "widened", "refined")


class Run(NamedTuple):
    """What one run gave for one goal: the columns of a table that this package computes with.

    See :mod:`lightning_noise.report.table` for their meaning. Optional columns that a table lacks
    are None or False.
    """

    goal: str
    global_size: float
    phase: str
    status: str
    steps: float | None
    seed: int | None = None
    learning_rate: float | None = None
    best_value: float | None = None
    mode: str | None = None
    best: bool = False
    boundary: bool = False
    pruned: bool = False
    widened: bool = False
    refined: bool = False
    budget_steps: int | None = None
    seconds: float | None = None

    @property
    def is_rerun(self) -> bool:
        """Whether it is a rerun of a winner, not a search trial."""
        return self.phase == RERUN

    @property
    def reached(self) -> bool:
        """Whether it reached the goal."""
        return self.status == REACHED

    @property
    def cut_short(self) -> bool:
        """Whether it was ended before its budget without a result: it is not known to fail."""
        return self.status == INCOMPLETE and self.pruned

    @property
    def quickness(self) -> float:
        """Its steps; infinite where it did not reach the goal."""
        if not self.reached or self.steps is None:
            return math.inf
        return float(self.steps)


def runs_of(rows: Iterable[Row]) -> list[Run]:
    """The rows of a table as records."""
    return list(map(_run, rows))


def _run(row: Row) -> Run:
    known = {}
    for name in Run._fields:
        if name in row:
            known[name] = row[name]
    for flag in FLAGS:
        known[flag] = bool(known.get(flag))
    return Run(**known)


def searches_of(runs: Iterable[Run]) -> list[Run]:
    """The search trials among the runs."""
    return [run for run in runs if run.phase == SEARCH]


def reruns_of(runs: Iterable[Run]) -> list[Run]:
    """The reruns of winners among the runs."""
    return [run for run in runs if run.is_rerun]


def by_size(runs: Iterable[Run]) -> dict[float, list[Run]]:
    """Batch size → its runs; sizes and runs in the order in which they come."""
    found: dict[float, list[Run]] = {}
    for run in runs:
        found.setdefault(run.global_size, []).append(run)
    return found


def count_reached(runs: Iterable[Run]) -> int:
    """How many of the runs reached their goal."""
    reached = 0
    for run in runs:
        if run.reached:
            reached += 1
    return reached


def runs_that_count(runs: Iterable[Run]) -> list[Run]:
    """The reruns of the winners, by batch size.

    In a table without any rerun it is the best search trial of each size. The best of many search
    trials is lucky, which reruns with fresh seeds are not.
    """
    runs = sorted(runs, key=size_of)
    reruns = reruns_of(runs)
    if reruns:
        return reruns
    best: dict[float, Run] = {}
    for run in runs:
        known = best.setdefault(run.global_size, run)
        if run.quickness < known.quickness:
            best[run.global_size] = run
    return list(best.values())


def size_of(run: Run) -> float:
    """Its batch size, to sort runs by."""
    return run.global_size


def steps_by_size(runs: Iterable[Run]) -> dict[float, float]:
    """Steps at each batch size: the geometric mean of its runs.

    Where more than half reached the goal, but not all, it is their median with the others counted
    as infinite: the mean of those that did would be too low. The other sizes are absent.
    """
    found: dict[float, list[float]] = {}
    for run in runs:
        found.setdefault(run.global_size, []).append(run.quickness)
    steps = {}
    for size in sorted(found):
        values = found[size]
        failed = values.count(math.inf)
        if failed == 0:
            mean_log = math.fsum(map(math.log, values)) / len(values)
            steps[size] = math.exp(mean_log)
        elif 2 * failed < len(values):
            steps[size] = median(values)
    return steps
