"""The critical batch size of every task of the atlas, by a study of the public API.

A task (``benchmarks/atlas/tasks``) is a LightningModule on real data with an early and a late goal.
At every batch size rates are searched by successive halving, each goal with its own, and the
winners are run again with seeds that chose nothing. The rows are the tables of the studies as they
are, with the runs that were pruned or failed. Those of a task are written when its study is
finished; what a stopped study has trained is kept in ``runs/atlas``. A study grows: with other
sizes or seeds in its file, ``--tasks NAME --again`` trains only what is missing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.storages import InMemoryStorage

from benchmarks.atlas.task import LATE, Task
from benchmarks.atlas.tasks import TASKS
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown, number_cell
from lightning_noise.report.terms import REACHED, RERUN
from lightning_noise.study import BatchSizeStudy, Budget, Search, StudyResult, Workers


class Row(NamedTuple):
    """One run of a study and one goal; the columns are those of its table."""

    task: str
    goal: str
    global_size: int
    seed: int
    trial: int
    phase: str
    learning_rate: float
    status: str
    steps: float | None
    examples: float | None
    best_value: float | None
    mode: str
    metric: str
    target: float
    boundary: bool
    best: bool
    pruned: bool
    widened: bool
    budget_steps: int
    trained_steps: int
    seconds: float | None


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """The table of one study after the other."""
    for name in options.tasks:
        if (name,) in done:
            continue
        task = TASKS[name]
        result = tiny(task) if options.tiny else task.study(options.workers).run()
        yield [row_of(name, row) for row in result.timed_table()]


def row_of(name: str, row: Mapping[str, Any]) -> Row:
    """A line of the study of the task ``name``."""
    values = {field: row.get(field) for field in Row._fields if field != "task"}
    return Row(task=name, **values)


def result_of(rows: Iterable[Row], name: str) -> StudyResult:
    """What the study of a task found."""
    return StudyResult.from_table([row._asdict() for row in rows if row.task == name])


def tiny(task: Task) -> StudyResult:
    """A study of seconds, in this process and in memory."""
    study = BatchSizeStudy(
        make_module=task.make_module,
        make_data=task.make_data,
        goal=task.goals,
        batch_sizes=task.sizes[2:6],
        search_space=task.search_space,
        search=Search(trials=2, seeds=1, widen=0),
        budget=Budget(examples=20_000, steps=400),
        workers=Workers(count=0),
        storage=InMemoryStorage(),
        name=task.name,
        validate_every=task.validate_every,
        noise_scale=False,
        progress=False,
    )
    return study.run()


def table(rows: Sequence[Row]) -> str:
    """What the studies took, a line for each task and one for all."""
    lines = []
    for name in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == name]
        sizes = sorted({row.global_size for row in mine})
        steps = result_of(mine, name).steps(LATE)
        ends = (number_cell(steps.get(sizes[0])), number_cell(steps.get(sizes[-1])))
        span = f"{sizes[0]}–{sizes[-1]} ({len(sizes)})"
        lines.append((TASKS[name].title, span, *ends, *cost_cells(mine)))
    lines.append(("all", "", "", "", *cost_cells(rows)))
    return markdown(HEAD, lines)


def cost_cells(rows: Sequence[Row]) -> tuple[str, ...]:
    """Runs, those pruned, reruns that failed, steps and hours. A run has a row for each goal."""
    runs = {(row.task, row.global_size, row.seed, row.trial, row.phase): row for row in rows}
    reruns = [row for row in rows if row.phase == RERUN and row.goal == LATE]
    failed = sum(row.status != REACHED for row in reruns)
    steps = sum(row.trained_steps for row in runs.values())
    hours = sum(row.seconds or 0 for row in runs.values()) / 3600
    return (
        str(len(runs)),
        str(sum(row.pruned for row in runs.values())),
        f"{failed} of {len(reruns)}",
        f"{steps:,}".replace(",", " "),
        f"{hours:.2f}",
    )


HEAD = (
    "task",
    "batch sizes, examples",
    "steps at the smallest",
    "at the largest",
    "runs",
    "pruned",
    "reruns without the late goal",
    "steps trained",
    "hours of training",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(
        tuple(TASKS), "tasks of the atlas", extends=True, choices=tuple(TASKS)
    )
    workers: int = option(2, "processes that train", extends=True)
    tiny: bool = option(False, "whether the studies are of seconds, in memory")


BENCHMARK = Benchmark(
    name="atlas_study",
    question="What is the critical batch size of small tasks on real data?",
    about=__doc__,
    row=Row,
    key=("task",),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("digits_mlp_sgd",), tiny=True),
    tables={"atlas study": table},
    minutes=90,
    order=lambda row: list(TASKS).index(row.task),
)
