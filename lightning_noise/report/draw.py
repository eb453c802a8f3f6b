"""Every figure that a table has numbers for, as files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.report.budget import fixed_budget
from lightning_noise.report.curves import frontier, steps_curve
from lightning_noise.report.file_names import file_names
from lightning_noise.report.fronts import fronts
from lightning_noise.report.rates import rate_map, rate_rule
from lightning_noise.report.table import Row, goals
from lightning_noise.report.terms import SEARCH


def draw_all(
    rows: Iterable[Row],
    folder: Path,
    wanted: Sequence[str] | None = None,
    *,
    fits: Mapping[str, CriticalBatchSize] | None = None,
    confidence: float = 0.95,
    kind: str = "png",
) -> Iterator[Path]:
    """Draws the figures of a study one by one, and yields the path of each once it is written.

    Args:
        rows: a study's table.
        folder: for the files; it is created.
        wanted: goals to draw; None: all.
        fits: of the goals at this confidence, where they are known already.
        confidence: of the intervals.
        kind: "png", "pdf" or "svg".

    Raises:
        NoMatplotlibError: matplotlib is not installed.
        TableError: there is no such goal, or no run reached it.
    """
    # matplotlib is loaded only where something is drawn
    from lightning_noise.report import budget_figure, figures, frontier_figure, rate_figures

    rows = list(rows)
    names = file_names(goals(rows))
    known = fits or {}
    folder.mkdir(parents=True, exist_ok=True)
    curves = []
    if wanted is None:
        wanted = list(names)
    for goal in wanted:
        ending = f"{names[goal]}.{kind}"
        curve = steps_curve(
            rows,
            goal,
            confidence=confidence,
            fit=known.get(goal),
        )
        curves.append(curve)
        yield _save(figures.draw_steps(curve), folder / f"steps_{ending}")
        tuned = [row for row in rows if row["goal"] == goal and _has_rate(row)]
        if _has_search(tuned):
            figure = rate_figures.draw_rate_map(rate_map(tuned, goal))
            yield _save(figure, folder / f"learning_rates_{ending}")
        if _has_winner(tuned):
            rule = rate_rule(tuned, curve, confidence=confidence)
            figure = rate_figures.draw_rate_rule(rule)
            yield _save(figure, folder / f"best_rate_{ending}")
        budget = fixed_budget(rows, goal)
        if budget is not None:
            figure = budget_figure.draw_fixed_budget(budget)
            yield _save(figure, folder / f"fixed_budget_{ending}")
    figure = frontier_figure.draw_frontier(list(map(frontier, curves)))
    yield _save(figure, folder / f"frontier.{kind}")
    by_target = fronts(rows, curves)
    if by_target is not None:
        figure = frontier_figure.draw_fronts(by_target)
        yield _save(figure, folder / f"fronts.{kind}")


def _has_rate(row: Row) -> bool:
    return row.get("learning_rate") is not None


def _has_search(rows: Iterable[Row]) -> bool:
    return any(row["phase"] == SEARCH for row in rows)


def _has_winner(rows: Iterable[Row]) -> bool:
    return any(row.get("best") for row in rows)


def _save(figure: object, path: Path) -> Path:
    figure.savefig(path)  # type: ignore[attr-defined]  # matplotlib's types may not be installed
    return path
