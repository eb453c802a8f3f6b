"""What a study found: the table, the steps at every batch size, the fit, and the noise scale beside it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.report.draw import draw_all
from lightning_noise.report.fit_text import count, interval
from lightning_noise.report.table import write_table
from lightning_noise.say.verdict import number
from lightning_noise.study.doubts import doubts, measured
from lightning_noise.study.rows import Row
from lightning_noise.study.trial import RERUN, SEARCH


class Comparison(NamedTuple):
    """A goal's measured critical batch size beside a noise scale of the tuned runs, as in McCandlish et al. 2018, table 1.

    ``start``, ``average`` and ``end`` are geometric means over the reruns at all batch sizes where the value was resolved, in
    examples; ``ratio`` is average / b_crit.
    """

    goal: str
    noise_scale: str
    b_crit: float | None
    low: float | None
    high: float | None
    start: float | None
    average: float | None
    end: float | None
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The tidy table of a study and what follows from it.

    Args:
        table: one dict a run and goal, in a fixed order: goal, global_size, seed, trial, phase ("search" or "rerun"),
            learning_rate, ``param_<name>`` of other searched parameters, status ("reached", "incomplete", "diverged"), steps
            (first crossing; None without), examples, best_value, mode ("min" or "max", of the goal), boundary (a parameter lies
            in the outer tenth of its range), best (winner of the search), pruned (ended before its budget), refined (of the
            closer search), budget_steps (that a run at this size may take), and noise scales of the
            reruns (b_simple_start, …).
        fits: goal → :class:`CriticalBatchSize` from the reruns; a goal whose steps cannot be fitted is absent.
        warnings: everything that bears on the trust in the result.
        run_warnings: those of them that the runs themselves gave.
    """

    table: tuple[Row, ...]
    fits: Mapping[str, CriticalBatchSize]
    warnings: tuple[str, ...] = ()
    run_warnings: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Iterable[Row], warnings: Iterable[str] = ()) -> "StudyResult":
        """Fits every goal of a table."""
        rows, said = tuple(table), tuple(warnings)
        fits, told = {}, list(said)
        for goal in dict.fromkeys(row["goal"] for row in rows):
            of_goal = [row for row in rows if row["goal"] == goal]
            steps = measured(of_goal)
            told += [f"{goal}: {doubt}" for doubt in doubts(of_goal)]
            try:
                fits[goal] = CriticalBatchSize.fit(list(steps), list(steps.values()))
            except ValueError as error:
                told.append(f"{goal}: no critical batch size: {error}")
            else:
                told += [f"{goal}: {doubt}" for doubt in fits[goal].warnings]
        return cls(table=rows, fits=fits, warnings=tuple(told), run_warnings=said)

    @property
    def goals(self) -> list[str]:
        """Names of the goals."""
        return list(dict.fromkeys(row["goal"] for row in self.table))

    def steps(self, goal: str) -> dict[float, float]:
        """Batch size → optimizer steps to the goal: the geometric mean of the winner's reruns.

        Where some reruns did not reach it but more than half did it is the median, in which those count as never; the other
        sizes are absent.
        """
        return measured(self._of(goal))

    def learning_rates(self, goal: str) -> dict[float, float]:
        """Batch size → learning rate of the winner, where one was searched."""
        best = (row for row in self._of(goal) if row["best"] and row["learning_rate"] is not None)
        return {row["global_size"]: row["learning_rate"] for row in best}

    def best_values(self, goal: str, *, mode: str | None = None) -> dict[int, float]:
        """Batch size → best value of any search trial under the fixed budget (Shallue et al. 2018, figures 9 and 10).

        Sizes where a run was ended before its budget are absent: it might have come further. ``BatchSizeStudy(prune=False)``
        gives every run its whole budget. ``mode`` is "min" or "max"; None: that of the goal.
        """
        mode = mode or next((row["mode"] for row in self._of(goal) if row.get("mode")), "min")
        pick = min if mode == "min" else max
        return {
            size: pick(row["best_value"] for row in rows if row["best_value"] is not None)
            for size, rows in self._search(goal).items()
            if not any(row["pruned"] for row in rows) and any(row["best_value"] is not None for row in rows)
        }

    def share_reached(self, goal: str) -> dict[int, float]:
        """Batch size → share of the search space that reaches the goal within the budget (Shallue et al. 2018, figure 12).

        The closer search does not count: it is not spread evenly. Sizes where a run was ended before its budget without having
        reached the goal are absent.
        """
        even = {size: [row for row in rows if not row["refined"]] for size, rows in self._search(goal).items()}
        return {
            size: fmean(row["status"] == "reached" for row in rows)
            for size, rows in even.items()
            if not any(row["pruned"] and row["status"] == "incomplete" for row in rows)
        }

    def compare(self, goal: str, noise_scale: str = "b_simple") -> Comparison:
        """The critical batch size beside a noise scale that the reruns measured ("b_simple", "b_noise", …)."""
        fit = self.fits.get(goal)
        reruns = [row for row in self._of(goal) if row["phase"] == RERUN]
        start, average, end = (
            _geometric_mean(row.get(f"{noise_scale}_{when}") for row in reruns) for when in ("start", "average", "end")
        )
        b_crit, low, high = (fit.b_crit, fit.low, fit.high) if fit is not None else (None, None, None)
        ratio = average / b_crit if average is not None and b_crit is not None else None
        return Comparison(goal, noise_scale, b_crit, low, high, start, average, end, ratio)

    def to_csv(self, path: str | Path) -> None:
        """Writes the table, for :func:`lightning_noise.report.table.read_table` and everything else that reads CSV."""
        write_table(path, self.table)

    def figures(self, folder: str | Path, *, kind: str = "png") -> list[Path]:
        """Draws steps, frontier, learning-rate map and best rates of every goal into ``folder`` (needs the extra ``plots``).

        The same as ``lightning-noise plot`` on the table's CSV.

        Raises:
            ImportError: there is no matplotlib.
            ValueError: no run reached a goal.
        """
        return list(draw_all(self.table, Path(folder), kind=kind))

    def summary(self) -> str:
        """The findings as text."""
        lines = []
        for goal in self.goals:
            lines += [f"goal {goal}", *self._fit_lines(goal), *self._size_lines(goal)]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def _fit_lines(self, goal: str) -> list[str]:
        fit = self.fits.get(goal)
        if fit is None:
            return ["  b_crit cannot be said"]
        bounds = f"95 % interval {interval(fit.low, fit.high)}"
        least = f"at least {count(fit.s_min, 'step')}, at least {count(fit.e_min, 'example')}"
        found = f"  b_crit {number(fit.b_crit)} examples, {bounds}: {least}"
        ending = "_average"
        columns = dict.fromkeys(name for row in self.table for name in row)
        scales = [name.removesuffix(ending) for name in columns if name.endswith(ending)]
        beside = [self.compare(goal, scale) for scale in scales]
        return [
            found,
            *(
                f"  {one.noise_scale} of the tuned runs: {number(one.start)} at the start, {number(one.average)} on average "
                f"({number(one.ratio)} b_crit), {number(one.end)} at the end"
                for one in beside
                if one.start is not None
            ),
        ]

    def _size_lines(self, goal: str) -> list[str]:
        rates = self.learning_rates(goal)
        lines = []
        for size, steps in self.steps(goal).items():
            taken = f"{count(steps, 'step')}, {count(steps * size, 'example')}"
            line = f"  {count(size, 'example'):>17} per step: {taken}"
            if size in rates:
                line += f", learning rate {number(rates[size])}"
            lines.append(line)
        return lines

    def _of(self, goal: str) -> list[Row]:
        rows = [row for row in self.table if row["goal"] == goal]
        if not rows:
            raise ValueError(f"goal must be one of {self.goals}, got {goal!r}.")
        return rows

    def _search(self, goal: str) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        for row in self._of(goal):
            if row["phase"] == SEARCH:
                found.setdefault(row["global_size"], []).append(row)
        return found


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value]
    return math.exp(fmean(map(math.log, found))) if found else None
