"""Every figure that a table has numbers for, as files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lightning_noise.report.curves import frontier, steps_curve
from lightning_noise.report.fit_text import file_names
from lightning_noise.report.rates import rate_map, rate_rule
from lightning_noise.report.table import Row, goals


def draw_all(
    rows: Iterable[Row], folder: Path, wanted: Sequence[str] | None = None, *, confidence: float = 0.95, kind: str = "png"
) -> Iterator[Path]:
    """Draws the figures of a study one by one, and gives the path of each when it is there.

    Args:
        rows: a study's table.
        folder: for the files; it is made.
        wanted: goals to draw; None: all.
        confidence: of the intervals.
        kind: "png", "pdf" or "svg".

    Raises:
        ImportError: there is no matplotlib.
        ValueError: no such goal, or no run reached it.
    """
    from lightning_noise.report import figures  # matplotlib is loaded only where something is drawn

    rows = list(rows)
    names = file_names(goals(rows))
    folder.mkdir(parents=True, exist_ok=True)
    curves = []
    for goal in names if wanted is None else wanted:
        curve = steps_curve(rows, goal, confidence=confidence)
        curves.append(curve)
        yield _save(figures.draw_steps(curve), folder / f"steps_{names[goal]}.{kind}")
        searched = [row for row in rows if row["goal"] == goal and row.get("learning_rate") is not None]
        if any(row["phase"] == "search" for row in searched):
            yield _save(figures.draw_rate_map(rate_map(searched, goal)), folder / f"learning_rates_{names[goal]}.{kind}")
        if any(row.get("best") for row in searched):
            rule = rate_rule(searched, curve, confidence=confidence)
            yield _save(figures.draw_rate_rule(rule), folder / f"best_rate_{names[goal]}.{kind}")
    yield _save(figures.draw_frontier([frontier(curve) for curve in curves]), folder / f"frontier.{kind}")


def _save(figure: object, path: Path) -> Path:
    figure.savefig(path)  # type: ignore[attr-defined]  # matplotlib's, whose types are not at hand without it
    return path
