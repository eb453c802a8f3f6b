"""How the best learning rate depends on the batch size, in the studies of the atlas.

Nothing is trained: the rows are the rates that ``atlas_study`` has tuned for the late goal of every
task, with the critical batch size of the same study. Below B_crit and above it a is fitted in rate
∝ B^a, one exponent for all tasks with the same kind of optimizer and a constant of its own for each
task; beside it stands the exponent that McCandlish et al. 2018, eq. 2.6, gives at the same sizes,

    rate ∝ 1/(1 + B_crit/B)^α,  α = 1 for SGD and momentum, 1/2 for Adam.

Intervals are Student's from the scatter about the lines: a best rate of eight trials is good to
about a factor of 1.3.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.atlas.findings_statistics import NOTHING, Bounded, cell
from benchmarks.harness.spec import RESULTS, Benchmark, Done, option
from benchmarks.harness.tables import MISSING, markdown, number_cell
from lightning_noise.core.student_t import student_t_quantile
from lightning_noise.report.table import read_table
from lightning_noise.study import StudyResult

STUDY = RESULTS / "atlas_study.csv"
GOAL = "late"
KINDS = {"momentum": "SGD with momentum", "adam": "Adam"}  # how names of tasks end
OTHERS = "SGD"
POWERS = {OTHERS: 1.0, "SGD with momentum": 1.0, "Adam": 0.5}


class Row(NamedTuple):
    """The best rate of a task at a batch size.

    Args:
        task: of the atlas.
        kind: of its optimizer.
        global_size: batch size, in examples of the loader.
        learning_rate: tuned for the late goal.
        b_crit: of the study; NaN where it has no fit.
    """

    task: str
    kind: str
    global_size: int
    learning_rate: float
    b_crit: float


def kind_of(task: str) -> str:
    """The optimizer of a task of the atlas.

    >>> kind_of("patches_ae_adam"), kind_of("quadratic")
    ('Adam', 'SGD')
    """
    return KINDS.get(task.rpartition("_")[2], OTHERS)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """The best rates of every task in the file of the studies."""
    table = read_table(Path(options.study))
    for task in dict.fromkeys(row["task"] for row in table):
        if (task,) not in done:
            yield rows_of(task, [row for row in table if row["task"] == task])


def rows_of(task: str, table: Sequence[Any]) -> list[Row]:
    """The best rates in the table of a study."""
    result = StudyResult.from_table(table)
    fit = result.fits.get(GOAL)
    b_crit = math.nan if fit is None else fit.b_crit
    rows = []
    for size, rate in sorted(result.learning_rates(GOAL).items()):
        rows.append(Row(task, kind_of(task), int(size), rate, b_crit))
    return rows


def expected_rate(row: Row) -> float:
    """Eq. 2.6 with B_crit, up to a constant."""
    return (1 + row.b_crit / row.global_size) ** -POWERS[row.kind]


def centred(rows: Sequence[Row], value: Callable[[Row], float]) -> np.ndarray:
    """ln of a value, minus its mean over the rows of the same task."""
    logs = np.log([value(row) for row in rows])
    tasks = np.array([row.task for row in rows])
    for task in set(tasks.tolist()):
        logs[tasks == task] -= logs[tasks == task].mean()
    return logs


def exponent(rows: Sequence[Row], value: Callable[[Row], float]) -> Bounded:
    """a of value ∝ B^a with a constant for each task, and its interval."""
    degrees = len(rows) - len({row.task for row in rows}) - 1
    if degrees < 1:
        return NOTHING
    x = centred(rows, lambda row: row.global_size)
    y = centred(rows, value)
    square = float(x @ x)
    if square == 0:
        return NOTHING
    a = float(x @ y) / square
    rest = y - a * x
    half = student_t_quantile(0.975, degrees) * math.sqrt(float(rest @ rest) / degrees / square)
    return Bounded(a, a - half, a + half)


def typical_factor(rows: Sequence[Row], rule: Callable[[Row], float]) -> float:
    """exp of the root mean square of ln(best rate / rule), with a free constant for each task."""
    degrees = len(rows) - len({row.task for row in rows})
    if degrees < 1:
        return math.nan
    rest = centred(rows, lambda row: row.learning_rate / rule(row))
    return math.exp(math.sqrt(float(rest @ rest) / degrees))


RULES: dict[str, Callable[[Row], float]] = {
    "constant": lambda _: 1.0,
    "root": lambda row: row.global_size**0.5,
    "linear": lambda row: float(row.global_size),
    "eq. 2.6, α = 1/2": lambda row: (1 + row.b_crit / row.global_size) ** -0.5,
    "eq. 2.6, α = 1": lambda row: (1 + row.b_crit / row.global_size) ** -1.0,
}


def fitted(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of a kind of optimizer whose task has a B_crit."""
    return [row for row in rows if row.kind == kind and not math.isnan(row.b_crit)]


def kinds_in(rows: Sequence[Row]) -> list[str]:
    """Kinds of optimizers, in their order."""
    return [kind for kind in POWERS if fitted(rows, kind)]


def exponent_table(rows: Sequence[Row]) -> str:
    """Exponents below and above B_crit, measured and of eq. 2.6."""
    lines = []
    for kind in kinds_in(rows):
        mine = fitted(rows, kind)
        sides = {
            "below B_crit": [row for row in mine if row.global_size <= row.b_crit],
            "above B_crit": [row for row in mine if row.global_size > row.b_crit],
        }
        for side, part in sides.items():
            tasks = {row.task for row in part}
            measured = exponent(part, lambda row: row.learning_rate)
            model = exponent(part, expected_rate)
            lines.append(
                (
                    kind,
                    side,
                    f"{len(part)} in {len(tasks)} studies",
                    cell(measured),
                    number_cell(model.value, ".2f"),
                )
            )
    if not lines:
        return "No task has a B_crit."
    return markdown(("optimizer", "sizes", "best rates", "a of rate ∝ B^a", "eq. 2.6"), lines)


def rule_table(rows: Sequence[Row]) -> str:
    """How far each rule is from the best rates of all sizes."""
    lines = []
    for kind in kinds_in(rows):
        mine = fitted(rows, kind)
        cells = []
        for rule in RULES.values():
            factor = typical_factor(mine, rule)
            cells.append(MISSING if math.isnan(factor) else f"{factor:.2f}")
        lines.append((kind, str(len(mine)), *cells))
    if not lines:
        return "No task has a B_crit."
    return markdown(("optimizer", "best rates", *RULES), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Best rates over that of the model at B_crit, against B/B_crit, a panel for each kind."""
    from matplotlib.figure import Figure

    kinds = kinds_in(rows)
    figure = Figure(figsize=(4 * len(kinds), 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    grid = np.geomspace(0.01, 100, 100)
    for ax, kind in zip(axes, kinds, strict=True):
        mine = fitted(rows, kind)
        for task in dict.fromkeys(row.task for row in mine):
            part = [row for row in mine if row.task == task]
            x = [row.global_size / row.b_crit for row in part]
            offsets = [math.log(row.learning_rate / expected_rate(row)) for row in part]
            scale = math.exp(math.fsum(offsets) / len(offsets))
            y = [row.learning_rate / scale for row in part]
            ax.plot(x, y, "o-", markersize=4, linewidth=0.8, label=task.replace("_", " "))
        model = (1 + 1 / grid) ** -POWERS[kind]
        ax.plot(grid, model, "k--", label=f"eq. 2.6, α = {POWERS[kind]:g}")
        ax.set(xscale="log", yscale="log", xlabel="B / B_crit")
        ax.set_title(kind, fontsize=10)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    axes[0].set_ylabel("best learning rate / rate of large batches")
    figure.savefig(path)


def missing() -> str:
    """What is needed and not there."""
    if STUDY.exists():
        return ""
    return f"{STUDY.name} is not in benchmarks/results. Run atlas_study first."


@dataclass(frozen=True, kw_only=True)
class Options:
    study: str = option(str(STUDY), "file of the studies", extends=True)


BENCHMARK = Benchmark(
    name="atlas_rules",
    question="Which rule for the learning rate do tuned rates follow as the batch size changes?",
    about=__doc__,
    row=Row,
    key=("task",),
    measure=measure,
    options=Options(),
    quick=Options(),
    tables={"atlas exponents": exponent_table, "atlas rules": rule_table},
    minutes=0.1,
    needs="atlas_study.csv",
    missing=missing,
    draw=draw,
)
