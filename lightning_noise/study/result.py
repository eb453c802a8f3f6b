"""What a study found: the table, the steps at every batch size, the fit, and the noise scale."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from lightning_noise.core.critical import CriticalBatchSize, NoFitError
from lightning_noise.report import budget, costs
from lightning_noise.report import table as tables
from lightning_noise.report.draw import draw_all
from lightning_noise.report.fit_text import NO_FIT, fit_lines
from lightning_noise.report.runs import Run, by_size, reruns_of, runs_of
from lightning_noise.report.table import Row
from lightning_noise.report.terms import RERUN, SECONDS
from lightning_noise.say.words import count, duration, number
from lightning_noise.study import caveats
from lightning_noise.study.doubts import doubts, measured


class Comparison(NamedTuple):
    """A goal's measured critical batch size and a noise scale of the tuned runs.

    ``start``, ``average`` and ``end`` are geometric means over the reruns at all batch sizes where
    the value was resolved, in examples; ``ratio`` is average / b_crit.

    Source: McCandlish et al. 2018, table 1.
    """

    goal: str
    noise_scale: str
    b_crit: float | None = None
    low: float | None = None
    high: float | None = None
    start: float | None = None
    average: float | None = None
    end: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The tidy table of a study and what follows from it.

    Args:
        table: one dict per run and goal, in a fixed order: goal, global_size, seed, trial, phase
            ("search", "repeat" or "rerun"), learning_rate, ``param_<name>`` of other searched
            parameters, status ("reached", "incomplete", "diverged"), steps (first crossing; None
            without), examples, best_value, mode ("min" or "max", of the goal), boundary (a
            parameter lies in the outer tenth of its range), best (winner of the search), pruned
            (ended before its budget), widened (lies where the range was widened by itself),
            budget_steps (that a run at this size may take), trained_steps (that it took), metric
            and target of the goal, and noise scales of the reruns (b_simple_start, …). It is the
            same for every way in which the study was run.
        seconds: what each row's run took in its process, with validations; None where it was not
            timed. ``to_csv`` writes it as a column.
        fits: goal → :class:`CriticalBatchSize` from the reruns; a goal whose steps cannot be fitted
            is absent.
        warnings: every reason to distrust the result, with an action and its cost.
        run_warnings: what the runs themselves and the storage reported, as they did.
    """

    table: tuple[Row, ...]
    fits: Mapping[str, CriticalBatchSize]
    warnings: tuple[str, ...] = ()
    run_warnings: tuple[str, ...] = ()
    seconds: tuple[float | None, ...] = ()

    @classmethod
    def from_table(cls, table: Iterable[Row], warnings: Iterable[str] = ()) -> "StudyResult":
        """Fits every goal of a table. A column ``seconds`` is kept apart."""
        rows = tuple(table)
        given = tuple(warnings)
        fits = {}
        all_runs = costs.cost(runs_of(costs.distinct(rows)))
        found = [caveats.of_runs(text, all_runs) for text in given]
        for goal in tables.goals(rows):
            runs = runs_of(tables.of_goal(rows, goal))
            steps = measured(runs)
            against = doubts(runs)
            try:
                fit = CriticalBatchSize.fit(list(steps), list(steps.values()))
            except NoFitError as refusal:
                against.append(f"{NO_FIT}: {costs.refusal(refusal, runs)}")
            else:
                fits[goal] = fit
                against += costs.fit_warnings(fit, runs)
            found += [f"{goal}: {doubt}" for doubt in against]
        return cls(
            table=tuple(map(_without_seconds, rows)),
            fits=fits,
            warnings=tuple(found),
            run_warnings=given,
            seconds=tuple(row.get(SECONDS) for row in rows),
        )

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

    def best_values(
        self,
        goal: str,
        *,
        mode: str | None = None,
    ) -> dict[float, float]:
        """Batch size → best value of any search trial under the fixed budget.

        Sizes where a run was ended before its budget are absent: it might have come further.
        ``Search(prune=False)`` gives every run its full budget. ``mode`` is "min" or "max"; None:
        that of the goal.

        Source: Shallue et al. 2018, figure 12.
        """
        return budget.best_values(self._runs(goal), mode)

    def share_reached(self, goal: str) -> dict[float, float]:
        """Batch size → share of the search space that reaches the goal within the budget.

        What was added to a range does not count: it is not spread evenly. Sizes where a run was
        ended before its budget without having reached the goal are absent.

        Source: Shallue et al. 2018, figures 9 and 10.
        """
        return budget.share_reached(self._runs(goal))

    def compare(self, goal: str, noise_scale: str = "b_simple") -> Comparison:
        """The critical batch size and a noise scale of the reruns ("b_simple", "b_noise", …)."""
        rows = tables.of_goal(self.table, goal)
        reruns = [row for row in rows if row["phase"] == RERUN]
        found = Comparison(
            goal=goal,
            noise_scale=noise_scale,
            start=_geometric_mean(reruns, f"{noise_scale}_start"),
            average=_geometric_mean(reruns, f"{noise_scale}_average"),
            end=_geometric_mean(reruns, f"{noise_scale}_end"),
        )
        fit = self.fits.get(goal)
        if fit is None:
            return found
        found = found._replace(
            b_crit=fit.b_crit,
            low=fit.low,
            high=fit.high,
        )
        if found.average is None:
            return found
        return found._replace(ratio=found.average / fit.b_crit)

    def to_csv(self, path: str | Path) -> None:
        """Writes the table, for :func:`lightning_noise.report.table.read_table` and others.

        Where runs were timed it has a column ``seconds``.
        """
        tables.write_table(path, self.timed_table())

    def timed_table(self) -> list[Row]:
        """The table with a column ``seconds``, where any run was timed."""
        if not any(self.seconds):
            return list(self.table)
        rows: list[Row] = []
        for row, seconds in zip(self.table, self.seconds, strict=True):
            rows.append({**row, SECONDS: seconds})
        return rows

    def figures(self, folder: str | Path, *, kind: str = "png") -> list[Path]:
        """Draws the figures of every goal into ``folder`` (needs the extra ``plots``).

        These are steps, frontier, learning-rate map and best rates, and where no run was pruned
        what a fixed budget gives: the same as those of ``lightning-noise plot`` on the table's CSV.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: no run reached a goal.
        """
        paths = draw_all(self.table, Path(folder), fits=self.fits, kind=kind)
        return list(paths)

    def summary(self) -> str:
        """The findings as text."""
        lines = []
        for goal in self.goals:
            lines.append(f"goal {goal}")
            lines += self._fit_lines(goal)
            lines += self._size_lines(goal)
        lines += self._cost_lines()
        for text in self.warnings:
            lines.append(f"warning: {text}")
        return "\n".join(lines)

    def _fit_lines(self, goal: str) -> Iterator[str]:
        if goal not in self.fits:
            yield f"  {NO_FIT}"
            return
        for line in fit_lines(self.fits[goal]):
            yield f"  {line}"
        for scale in self._noise_scales():
            found = self.compare(goal, scale)
            if found.start is None:
                continue
            start = f"{number(found.start)} at the start"
            average = f"{number(found.average)} on average ({number(found.ratio)} b_crit)"
            end = f"{number(found.end)} at the end"
            yield f"  {scale} of the tuned runs: {start}, {average}, {end}"

    def _noise_scales(self) -> list[str]:
        """Those that the table has columns of."""
        ending = "_average"
        found = []
        for column in tables.columns(self.table):
            if column.endswith(ending):
                found.append(column.removesuffix(ending))
        return found

    def _size_lines(self, goal: str) -> list[str]:
        rates = self.learning_rates(goal)
        runs = runs_of(tables.of_goal(self.timed_table(), goal))
        reruns = by_size(reruns_of(runs))
        lines = []
        for size, steps in self.steps(goal).items():
            per_step = count(size, "example")
            examples = count(steps * size, "example")
            line = f"  {per_step:>17} per step: {count(steps, 'step')}, {examples}"
            if size in rates:
                line += f", learning rate {number(rates[size])}"
            seconds = costs.cost(reruns[size]).seconds
            if seconds is not None:
                line += f", {duration(seconds / len(reruns[size]))} a run"
            lines.append(line)
        return lines

    def _cost_lines(self) -> Iterator[str]:
        """What the study has cost, where its runs were timed."""
        runs = runs_of(costs.distinct(self.timed_table()))
        timed = [run.seconds for run in runs if run.seconds is not None]
        if timed:
            text = f"{count(len(timed), 'run')} took {duration(math.fsum(timed))} of training"
            yield f"cost: {text}, one after the other"

    def _runs(self, goal: str) -> list[Run]:
        return runs_of(tables.of_goal(self.table, goal))


def _without_seconds(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != SECONDS}


def _geometric_mean(rows: Iterable[Row], column: str) -> float | None:
    """Over the rows that have a value in this column."""
    logs = []
    for row in rows:
        value = row.get(column)
        if value:
            logs.append(math.log(value))
    if not logs:
        return None
    return math.exp(fmean(logs))
