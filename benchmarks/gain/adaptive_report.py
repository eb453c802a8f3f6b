"""Tables, remarks and the Pareto picture of ``adaptive``, from its runs.

Means over five seeds with their standard errors. For an adaptive run it also says: which fixed
sizes are better in both, what the fixed sizes with the same examples within 10 % need, what the
polyline through the fixed sizes gives at the same examples, and what the large-batch model predicts
from the noise scales that the run measured (gamma of McCandlish et al. 2018, appendix D).
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gain.adaptive_runs import Run
from benchmarks.harness.tables import markdown
from lightning_noise.report.axes import plain_ticks

FRESH_SEEDS = frozenset({2, 3, 4, 5, 6})
SAME = 0.1
# of Okabe and Ito, which can be told apart without full colour vision, each with its own marker
LOOKS = (
    ("#0072B2", "*"),
    ("#56B4E9", "P"),
    ("#009E73", "X"),
    ("#D55E00", "D"),
    ("#E69F00", "^"),
    ("#CC79A7", "v"),
    ("#000000", "h"),
    ("#7A5195", "<"),
)


class Row(NamedTuple):
    """Five runs at the rate that was found: means and their standard errors."""

    task: str
    kind: str
    size: int
    rate: float
    runs: int
    reached: int
    steps: float
    steps_error: float
    examples: float
    examples_error: float
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"fixed {self.size}" if self.kind == "fixed" else self.kind


class Prediction(NamedTuple):
    """The large-batch model, fed with the noise scales that an adaptive run measured.

    Args:
        gamma: what the best adaptation could gain; 1 is nothing.
        saved: share of the steps that the sizes taken save beside a fixed size with the same
            examples.
    """

    gamma: float
    saved: float


def summaries(runs: Sequence[Run]) -> list[Row]:
    """The rows of the tables, in the order of the runs."""
    groups: dict[tuple[str, str, int, float], list[Run]] = {}
    for run in runs:
        if run.seed in FRESH_SEEDS:
            groups.setdefault((run.task, run.kind, run.size, run.rate), []).append(run)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, str, int, float], runs: Sequence[Run]) -> Row:
    done = [run for run in runs if run.reached]
    steps, steps_error = _mean([run.steps for run in done])
    examples, examples_error = _mean([run.examples for run in done])
    paths = tuple(run.path for run in done if run.path)
    return Row(*key, len(runs), len(done), steps, steps_error, examples, examples_error, paths)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def predict(path: str) -> Prediction | None:
    """The model's view of one adaptive run; ``None`` where no noise scale was resolved.

    ``path`` holds a period a word, size x steps @ b_simple; a period without a value takes the one
    before. n steps at size B make the progress ds = n / (1 + R/B) of the minimum number of steps.
    """
    periods = [_period(word) for word in path.split()]
    known = [b for _, _, b in periods if b is not None]
    if not known:
        return None
    least_steps = least_examples = roots = steps = examples = 0.0
    b = known[0]
    for size, count, measured in periods:
        b = b if measured is None else measured
        progress = count / (1 + b / size)
        least_steps, least_examples = least_steps + progress, least_examples + b * progress
        roots += math.sqrt(b) * progress
        steps, examples = steps + count, examples + size * count
    gamma = roots**2 / (least_steps * least_examples)
    fixed_size = (examples - least_examples) / least_steps  # E = E_min + B · S_min
    return Prediction(gamma, 1 - steps / (least_steps + least_examples / fixed_size))


def _period(word: str) -> tuple[int, int, float | None]:
    sizes, _, b = word.partition("@")
    size, count = sizes.split("x")
    return int(size), int(count), float(b) if b else None


def steps_at(rows: Iterable[Row], examples: float) -> float | None:
    """Steps on the polyline (in logarithms) through the fixed sizes that none beats in both;
    ``None`` outside of it.
    """
    frontier = sorted(undominated(rows), key=lambda row: row.examples)
    for left, right in itertools.pairwise(frontier):
        if left.examples <= examples <= right.examples:
            share = math.log(examples / left.examples) / math.log(right.examples / left.examples)
            return math.exp(math.log(left.steps) + share * math.log(right.steps / left.steps))
    return None


def undominated(rows: Iterable[Row]) -> list[Row]:
    """The rows that no other one beats in both steps and examples."""
    rows = [row for row in rows if row.reached]
    return [row for row in rows if not any(beats(other, row) for other in rows)]


def beats(one: Row, other: Row) -> bool:
    """Whether ``one`` needs fewer steps and no more examples, or the reverse."""
    no_more = one.steps <= other.steps and one.examples <= other.examples
    return no_more and (one.steps < other.steps or one.examples < other.examples)


def tables(tasks: Iterable[str]) -> dict[str, Callable[[Sequence[Run]], str]]:
    """A table and remarks for each task."""
    made: dict[str, Callable[[Sequence[Run]], str]] = {}
    for task in tasks:
        made[f"adaptive {task}"] = lambda runs, task=task: table(of_task(runs, task))
        made[f"adaptive {task}, remarks"] = lambda runs, task=task: remark_list(runs, task)
    return made


def remark_list(runs: Sequence[Run], task: str) -> str:
    """The remarks of one task."""
    return "\n".join(f"- {found}" for found in remarks(of_task(runs, task))) or "None."


def of_task(runs: Sequence[Run], task: str) -> list[Row]:
    """The rows of one task."""
    return [row for row in summaries(runs) if row.task == task]


def table(rows: Sequence[Row]) -> str:
    """Means with their standard errors."""
    lines = []
    for row in sorted(rows, key=lambda row: (row.kind != "fixed", row.size)):
        steps = f"{row.steps:.0f} ± {row.steps_error:.0f}"
        examples = f"{row.examples:,.0f} ± {row.examples_error:,.0f}".replace(",", " ")
        name = row.name if row.kind == "fixed" else f"**`{row.name}`**"
        reached = f"{row.reached} of {row.runs}"
        lines.append((name, f"{row.rate:g}", steps, examples, reached))
    head = ("batch size", "rate at the start", "steps", "examples", "seeds at the goal")
    return markdown(head, lines)


def remarks(rows: Sequence[Row]) -> list[str]:
    """What can be said of every adaptive row of one task beside the fixed ones."""
    fixed = [row for row in rows if row.kind == "fixed" and row.reached]
    return [remark(row, fixed) for row in rows if row.kind != "fixed" and row.reached]


def remark(row: Row, fixed: Sequence[Row]) -> str:
    """An adaptive row beside the fixed ones."""
    better = ", ".join(str(other.size) for other in fixed if beats(other, row))
    same = [other for other in fixed if abs(other.examples / row.examples - 1) <= SAME]
    beside = [
        f"fixed {o.size} ({o.examples / row.examples - 1:+.0%} examples): "
        f"{row.steps / o.steps - 1:+.0%} steps"
        for o in same
    ]
    line = steps_at(fixed, row.examples)
    between = "outside the fixed sizes"
    if line is not None:
        between = f"{row.steps / line - 1:+.0%} steps beside their line"
    gamma, saved = mean_prediction(row)
    return (
        f"`{row.name}`: beaten in both by fixed sizes: {better or 'none'}; with the same examples "
        f"± 10 %: {'; '.join(beside) or 'no fixed size'}; {between}; predicted by the model: "
        f"{-saved:+.0%} steps, gamma {gamma:.2f}"
    )


def mean_prediction(row: Row) -> Prediction:
    """Over the runs that have one; NaN where none has."""
    found = [p for p in map(predict, row.paths) if p is not None]
    if not found:
        return Prediction(math.nan, math.nan)
    return Prediction(*(statistics.fmean(values) for values in zip(*found, strict=True)))


def draw(runs: Sequence[Run], path: Path) -> None:
    """Steps against examples, both logarithmic, a panel for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in summaries(runs) if row.reached]
    tasks = list(dict.fromkeys(row.task for row in rows))
    kinds = sorted({row.kind for row in rows if row.kind != "fixed"})
    figure = Figure(figsize=(5.6 * len(tasks), 5.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tasks), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        mine = [row for row in rows if row.task == task]
        fixed = sorted((row for row in mine if row.kind == "fixed"), key=lambda row: row.size)
        panel.plot([r.examples for r in fixed], [r.steps for r in fixed], color="0.75", zorder=1)
        _points(panel, fixed, "o", "0.35", "fixed sizes")
        for row in (row for row in mine if row.kind != "fixed"):
            color, marker = LOOKS[kinds.index(row.kind) % len(LOOKS)]
            _points(panel, [row], marker, color, row.kind)
        _label(panel, task)
        for row in fixed:
            _name(panel, row)
    figure.savefig(path)


def _name(panel: Any, row: Row) -> None:
    """The size of a fixed row, above everything else and with a white rim."""
    from matplotlib.patheffects import withStroke

    panel.annotate(
        f"{row.size}",
        (row.examples, row.steps),
        xytext=(-6, -6),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=10,
    )


def _label(panel: Any, task: str) -> None:
    names = {"xlabel": "examples to the goal", "ylabel": "optimizer steps to the goal"}
    panel.set(title=task, **names, xscale="log", yscale="log")
    panel.margins(0.1)
    plain_ticks(panel.xaxis, *panel.get_xlim())
    plain_ticks(panel.yaxis, *panel.get_ylim())
    panel.tick_params(which="both", labelsize=8)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2, "fontsize": 7}
    panel.legend(**below, title="adaptive from 16, and fixed sizes")


def _points(panel: Any, rows: Sequence[Row], marker: str, color: str, label: str) -> None:
    panel.errorbar(
        [r.examples for r in rows],
        [r.steps for r in rows],
        xerr=[r.examples_error for r in rows],
        yerr=[r.steps_error for r in rows],
        fmt=marker,
        color=color,
        markersize=12 if marker == "*" else 7,
        capsize=2,
        label=label,
    )
