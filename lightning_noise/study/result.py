"""What a study found: the table, the steps at every batch size, the fit, and the noise scale."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from lightning_noise.core.critical import CriticalBatchSize, NoFitError
from lightning_noise.report import table as tables
from lightning_noise.report.draw import draw_all
from lightning_noise.report.fit_text import NO_FIT, fit_lines
from lightning_noise.report.runs import Run, runs_of
from lightning_noise.report.table import Row
from lightning_noise.report.terms import RERUN, SEARCH
from lightning_noise.say.words import count, number
from lightning_noise.study.doubts import doubts, measured


class Comparison(NamedTuple):
    """A goal's measured critical batch size beside a noise scale of the tuned runs.

    ``start``, ``average`` and ``end`` are geometric means over the reruns at all batch sizes where
    the value was resolved, in examples; ``ratio`` is average / b_crit.

    Source: McCandlish et al. 2018, table 1.
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
        table: one dict per run and goal, in a fixed order: goal, global_size, seed, trial, phase
            ("search" or "rerun"), learning_rate, ``param_<name>`` of other searched parameters,
            status ("reached", "incomplete", "diverged"), steps (first crossing; None without),
            examples, best_value, mode ("min" or "max", of the goal), boundary (a parameter lies
            in the outer tenth of its range), best (winner of the search), pruned (ended before its
            budget), refined (part of the closer search), budget_steps (that a run at this size may
            take), and noise scales of the reruns (b_simple_start, …).
        fits: goal → :class:`CriticalBatchSize` from the reruns; a goal whose steps cannot be fitted
            is absent.
        warnings: every reason to distrust the result.
        run_warnings: those of them that the runs themselves gave.
    """

    table: tuple[Row, ...]
    fits: Mapping[str, CriticalBatchSize]
    warnings: tuple[str, ...] = ()
    run_warnings: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Iterable[Row], warnings: Iterable[str] = ()) -> "StudyResult":
        """Fits every goal of a table."""
        rows, given = tuple(table), tuple(warnings)
        runs = runs_of(rows)
        fits = {}
        found = list(given)
        for goal in tables.goals(rows):
            of_goal = [run for run in runs if run.goal == goal]
            steps = measured(of_goal)
            found += [f"{goal}: {doubt}" for doubt in doubts(of_goal)]
            try:
                fits[goal] = CriticalBatchSize.fit(list(steps), list(steps.values()))
            except NoFitError as refusal:
                found.append(f"{goal}: {NO_FIT}: {refusal}")
            else:
                found += [f"{goal}: {doubt}" for doubt in fits[goal].warnings]
        return cls(table=rows, fits=fits, warnings=tuple(found), run_warnings=given)

    @property
    def goals(self) -> list[str]:
        """Names of the goals."""
        return tables.goals(self.table)

    def steps(self, goal: str) -> dict[float, float]:
        """Batch size → optimizer steps to the goal: the geometric mean of the winner's reruns.

        Where some reruns did not reach it but more than half did, it is the median, in which those
        count as infinite; the other sizes are absent.
        """
        return measured(self._runs(goal))

    def learning_rates(self, goal: str) -> dict[float, float]:
        """Batch size → learning rate of the winner, where one was searched."""
        rates = {}
        for run in self._runs(goal):
            if run.best and run.learning_rate is not None:
                rates[run.global_size] = run.learning_rate
        return rates

    def best_values(self, goal: str, *, mode: str | None = None) -> dict[float, float]:
        """Batch size → best value of any search trial under the fixed budget.

        Sizes where a run was ended before its budget are absent: it might have come further.
        ``Search(prune=False)`` gives every run its whole budget. ``mode`` is "min" or "max"; None:
        that of the goal.

        Source: Shallue et al. 2018, figures 9 and 10.
        """
        mode = mode or next((run.mode for run in self._runs(goal) if run.mode), "min")
        best = min if mode == "min" else max
        found = {}
        for size, runs in self._searches(goal).items():
            values = [run.best_value for run in runs if run.best_value is not None]
            if values and not any(run.pruned for run in runs):
                found[size] = best(values)
        return found

    def share_reached(self, goal: str) -> dict[float, float]:
        """Batch size → share of the search space that reaches the goal within the budget.

        The closer search does not count: it is not spread evenly. Sizes where a run was ended
        before its budget without having reached the goal are absent.

        Source: Shallue et al. 2018, figure 12.
        """
        shares = {}
        for size, runs in self._searches(goal).items():
            even = [run for run in runs if not run.refined]
            if not any(run.cut_short for run in even):
                shares[size] = fmean(run.reached for run in even)
        return shares

    def compare(self, goal: str, noise_scale: str = "b_simple") -> Comparison:
        """The critical batch size beside a noise scale of the reruns ("b_simple", "b_noise", …)."""
        reruns = [row for row in tables.of_goal(self.table, goal) if row["phase"] == RERUN]

        def mean(when: str) -> float | None:
            return _geometric_mean(row.get(f"{noise_scale}_{when}") for row in reruns)

        average = mean("average")
        fit = self.fits.get(goal)
        b_crit = low = high = ratio = None
        if fit is not None:
            b_crit, low, high = fit.b_crit, fit.low, fit.high
            ratio = None if average is None else average / fit.b_crit
        return Comparison(
            goal=goal,
            noise_scale=noise_scale,
            b_crit=b_crit,
            low=low,
            high=high,
            start=mean("start"),
            average=average,
            end=mean("end"),
            ratio=ratio,
        )

    def to_csv(self, path: str | Path) -> None:
        """Writes the table, for :func:`lightning_noise.report.table.read_table` and others."""
        tables.write_table(path, self.table)

    def figures(self, folder: str | Path, *, kind: str = "png") -> list[Path]:
        """Draws the figures of every goal into ``folder`` (needs the extra ``plots``).

        These are steps, frontier, learning-rate map and best rates: the same as those of
        ``lightning-noise plot`` on the table's CSV.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: no run reached a goal.
        """
        return list(draw_all(self.table, Path(folder), fits=self.fits, kind=kind))

    def summary(self) -> str:
        """The findings as text."""
        lines = []
        for goal in self.goals:
            lines += [f"goal {goal}", *self._fit_lines(goal), *self._size_lines(goal)]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def _fit_lines(self, goal: str) -> Iterator[str]:
        if goal not in self.fits:
            yield f"  {NO_FIT}"
            return
        for line in fit_lines(self.fits[goal]):
            yield f"  {line}"
        for scale in self._noise_scales():
            found = self.compare(goal, scale)
            if found.start is not None:
                average = f"{number(found.average)} on average ({number(found.ratio)} b_crit)"
                ends = f"{number(found.start)} at the start, {average}, {number(found.end)}"
                yield f"  {scale} of the tuned runs: {ends} at the end"

    def _noise_scales(self) -> list[str]:
        """Those that the table has columns of."""
        ending = "_average"
        columns = dict.fromkeys(name for row in self.table for name in row)
        averages = [name for name in columns if name.endswith(ending)]
        return [name.removesuffix(ending) for name in averages]

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

    def _runs(self, goal: str) -> list[Run]:
        return runs_of(tables.of_goal(self.table, goal))

    def _searches(self, goal: str) -> dict[float, list[Run]]:
        found: dict[float, list[Run]] = {}
        for run in self._runs(goal):
            if run.phase == SEARCH:
                found.setdefault(run.global_size, []).append(run)
        return found


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    logs = [math.log(value) for value in values if value]
    return math.exp(fmean(logs)) if logs else None
