"""The table of docs/adaptive.md on least time, from the rows of the sweep and of adaptive runs.

    python -m benchmarks.gain.least_time_report [--write]

Times are relative to those of fixed sizes, each at its own tuned rate. A run that does not reach
its goal makes its mean infinite.
"""

import argparse
import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gain import least_time, sweep
from benchmarks.gain.tasks import TASKS

PAGE = Path(__file__).parents[2] / "docs" / "adaptive.md"
END = "<!-- end of gain -->"
RESULTS = Path(__file__).parent / "results"
SIMPLE = ("cosine_quality", "edge", "least_time_changes", "guard_rate")  # tables as they are
WASTE = 0.5
VARIANT = "middle"
HEAD = (
    "task",
    "ρ",
    "best fixed",
    "start",
    "tuned, every 20 steps",
    "half the rate, every 20",
    "tuned, between epochs",
)
COLUMNS = (("20", 1.0), ("20", 0.5), ("epoch", 1.0))  # decisions, share of the tuned rate


class Fixed(NamedTuple):
    """Mean steps to the goal of a task, by fixed size."""

    steps: dict[int, float]

    def time(self, size: int, rho: float) -> float:
        """Units of time to the goal."""
        return (rho + size) * self.steps[size]

    def best(self, rho: float, waste: float = math.inf) -> int:
        """The size of least time, of those that use at most ``1 + waste`` times the examples."""
        least = min(size * steps for size, steps in self.steps.items())
        allowed = []
        for size, steps in self.steps.items():
            if size * steps <= (1 + waste) * least:
                allowed.append(size)
        return min(allowed, key=lambda size: self.time(size, rho))


def fixed_runs(task: str) -> Fixed:
    """The final runs of the sweep."""
    by_size: dict[int, list[float]] = {}
    for row in sweep.read():
        if row.task == task and row.kind == "fixed":
            by_size.setdefault(row.size, []).append(row.steps)
    return Fixed({size: statistics.fmean(steps) for size, steps in by_size.items()})


class Cell(NamedTuple):
    """Mean time of adaptive runs, relative to two fixed sizes, and their number."""

    of_best: float
    of_allowed: float
    runs: int

    def __str__(self) -> str:
        return f"{self.of_best:.2f} ({self.of_allowed:.2f}), {self.runs}"


def times_of(task: str, rho: int, every: str, share: float) -> list[float]:
    """Times of the adaptive runs of one cell; ``share`` is of the start's tuned rate."""
    rate = sweep.best_rates(task)[TASKS[task].start] * share
    times = []
    for row in least_time.read():
        key = (row.task, row.variant, row.every, row.rho)
        if key == (task, VARIANT, every, rho) and math.isclose(row.rate, rate, rel_tol=1e-3):
            times.append(row.time)
    return times


def cell(task: str, rho: int, every: str, share: float) -> Cell | None:
    """One cell; ``None`` where nothing was run."""
    times = times_of(task, rho, every, share)
    if not times:
        return None
    fixed = fixed_runs(task)
    mean = statistics.fmean(times)
    best = fixed.time(fixed.best(rho), rho)
    allowed = fixed.time(fixed.best(rho, WASTE), rho)
    return Cell(mean / best, mean / allowed, len(times))


def lines() -> Iterable[str]:
    """The lines of the table."""
    yield "| " + " | ".join(HEAD) + " |"
    yield "|" + "---|" * len(HEAD)
    found: list[list[Cell]] = [[] for _ in COLUMNS]
    starts = []
    for task in TASKS:
        fixed = fixed_runs(task)
        for rho in least_time.RHOS:
            best = fixed.best(rho)
            start = fixed.time(TASKS[task].start, rho) / fixed.time(best, rho)
            starts.append(start)
            texts = []
            for column, (every, share) in zip(found, COLUMNS, strict=True):
                one = cell(task, rho, every, share)
                texts.append("–" if one is None else str(one))
                if one is not None:
                    column.append(one)
            yield _line(task, str(rho), str(best), f"{start:.2f}", *texts)
    means = [str(_mean(column)) for column in found]
    yield _line("geometric mean", "", "", f"{statistics.geometric_mean(starts):.2f}", *means)


def _line(*parts: str) -> str:
    return "| " + " | ".join(parts) + " |"


def _mean(cells: Sequence[Cell]) -> Cell:
    return Cell(
        statistics.geometric_mean([one.of_best for one in cells]),
        statistics.geometric_mean([one.of_allowed for one in cells]),
        sum(one.runs for one in cells),
    )


def simple_lines(name: str) -> Iterable[str]:
    """A CSV file as a table."""
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    yield _line(*(text.replace("_", " ") for text in head))
    yield "|" + "---|" * len(head)
    for row in rows:
        yield _line(*row)


def filled(page: str) -> str:
    """The page with the tables in place."""
    page = _with_table(page, "least time", lines())
    for name in SIMPLE:
        page = _with_table(page, name, simple_lines(name))
    return page


def _with_table(page: str, name: str, table: Iterable[str]) -> str:
    begin = f"<!-- gain: {name} -->\n"
    if begin not in page:
        return page
    before, rest = page.split(begin)
    _, after = rest.split(END, maxsplit=1)
    return before + begin + "\n" + "\n".join(table) + "\n\n" + END + after


def main() -> None:
    """Prints the table, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/adaptive.md")
    if parser.parse_args().write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for line in lines():
        print(line)


if __name__ == "__main__":
    main()
