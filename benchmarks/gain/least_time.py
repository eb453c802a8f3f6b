"""Time to a goal with an adaptive batch size that starts too small, beside fixed sizes.

A step of B examples takes ``rho + B`` units of time; the policy is not told so, it is given the
duration of each step, with a jitter of 3 %. The runs are plain loops that drive the package's own
``Windows`` and ``Adaptation``: the estimate is from the norms of up to 16 groups of each batch,
decisions are taken every 20 steps or between epochs of 2048 examples. Runs to a later goal start
16 times below the best fixed size, the others at 4.

The table shows the settings "middle" alone: times relative to those of fixed sizes, each at its own
tuned rate (``sweep``). A run that does not reach its goal makes its mean infinite. The committed
file has as many seeds as the table says, and the trials by which the settings were chosen: those
that "decay by examples" were the first, with other seeds (``--variants``, ``--seeds``).
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.gain.driven import Run
from benchmarks.gain.sweep import SEEDS, fixed_sizes, start_of, tuned_rate
from benchmarks.gain.tasks import TASKS, task_of
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise import AdaptiveBatchSize
from lightning_noise.core.estimate import NoiseEstimate

RHOS = (16, 64, 256, 1024)
WASTE = 0.5
SHOWN = "middle"
COLUMNS = {  # decisions, share of the start's tuned rate
    "tuned, every 20 steps": ("20", 1.0),
    "half the rate, every 20": ("20", 0.5),
    "tuned, between epochs": ("epoch", 1.0),
}


def quarter(old: float, new: float, _: NoiseEstimate) -> float:
    """The fourth root of the ratio of the sizes."""
    return (new / old) ** 0.25


BY_EXAMPLES = ", decay by examples"
SETTINGS = {
    "optimal": AdaptiveBatchSize(learning_rate="optimal"),
    "middle": AdaptiveBatchSize(learning_rate="middle"),
    "sqrt": AdaptiveBatchSize(learning_rate="sqrt"),
    "linear": AdaptiveBatchSize(learning_rate="linear"),
    "quarter": AdaptiveBatchSize(learning_rate=quarter),
}
VARIANTS = (*SETTINGS, *(name + BY_EXAMPLES for name in SETTINGS))


class Row(NamedTuple):
    """One adaptive run; ``time`` is infinite where the goal was not reached.

    ``every`` is a number of steps, or "epoch". ``path`` has the size and the steps of every
    stretch, ``16x200 32x80``.
    """

    task: str
    variant: str
    every: str
    rho: int
    rate: float
    seed: int
    time: float
    steps: int
    examples: int
    jumps: int
    path: str


def run_of(
    task: str, variant: str, every: str, rho: int, rate: float, seed: int, *, tiny: bool
) -> Row:
    """One run."""
    settings = SETTINGS[variant.removesuffix(BY_EXAMPLES)]
    ageing = 1.0 if variant.endswith(BY_EXAMPLES) else 0.0
    steps_between = None if every == "epoch" else int(every)
    trained = replace(task_of(task, tiny=tiny), start=start_of(task, rho))
    run = Run(trained, settings, rho, rate, seed, every=steps_between, ageing=ageing)
    time = math.inf
    if run.to_goal():
        time = run.time
    found = (time, run.steps, run.examples, run.jumps, run.path)
    return Row(task, variant, every, rho, rate, seed, *found)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every run by itself."""
    cases = itertools.product(
        options.tasks,
        options.variants,
        options.every,
        options.rhos,
        options.of_tuned,
        options.seeds,
    )
    for task, variant, every, rho, share, seed in cases:
        rate = float(f"{tuned_rate(task, start_of(task, rho)) * share:.6g}")
        key = (task, variant, every, rho, rate, seed)
        if key not in done:
            yield [run_of(*key, tiny=options.tiny)]


class Cell(NamedTuple):
    """Mean time of adaptive runs, relative to two fixed sizes, and their number."""

    of_best: float
    of_allowed: float
    runs: int

    def __str__(self) -> str:
        return f"{self.of_best:.2f} ({self.of_allowed:.2f}), {self.runs}"


def cell(rows: Sequence[Row], task: str, rho: int, every: str, share: float) -> Cell | None:
    """One cell; ``None`` where nothing was run. ``share`` is of the start's tuned rate."""
    fixed = fixed_sizes(task)
    rate = tuned_rate(task, start_of(task, rho)) * share
    times = []
    for row in rows:
        is_here = (row.task, row.variant, row.every, row.rho) == (task, SHOWN, every, rho)
        if is_here and math.isclose(row.rate, rate, rel_tol=1e-3):
            times.append(row.time)
    if not times:
        return None
    mean = statistics.fmean(times)
    best = fixed.time(fixed.best(rho), rho)
    allowed = fixed.time(fixed.best(rho, WASTE), rho)
    return Cell(mean / best, mean / allowed, len(times))


def table(rows: Sequence[Row]) -> str:
    """Times relative to the best fixed sizes, and their geometric means."""
    lines = []
    starts = []
    found: dict[str, list[Cell | None]] = {name: [] for name in COLUMNS}
    known = {(row.task, row.rho) for row in rows if row.variant == SHOWN}
    for task, rho in itertools.product(TASKS, RHOS):
        if (task, rho) not in known:
            continue
        fixed = fixed_sizes(task)
        best = fixed.best(rho)
        starts.append(fixed.time(start_of(task, rho), rho) / fixed.time(best, rho))
        for name, (every, share) in COLUMNS.items():
            found[name].append(cell(rows, task, rho, every, share))
        cells = [as_text(column[-1]) for column in found.values()]
        lines.append((task, str(rho), str(best), f"{starts[-1]:.2f}", *cells))
    start = f"{statistics.geometric_mean(starts):.2f}"
    means = [as_text(mean_cell(column)) for column in found.values()]
    lines.append(("geometric mean", "", "", start, *means))
    return markdown(("task", "ρ", "best fixed", "start", *COLUMNS), lines)


def as_text(one: Cell | None) -> str:
    """A cell, or a dash where nothing was run."""
    return MISSING if one is None else str(one)


def mean_cell(column: Sequence[Cell | None]) -> Cell | None:
    """The geometric mean of a column."""
    cells = [one for one in column if one is not None]
    if not cells:
        return None
    return Cell(
        statistics.geometric_mean([one.of_best for one in cells]),
        statistics.geometric_mean([one.of_allowed for one in cells]),
        sum(one.runs for one in cells),
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(tuple(TASKS), "tasks", extends=True, choices=tuple(TASKS))
    variants: tuple[str, ...] = option((SHOWN,), "settings", extends=True, choices=VARIANTS)
    every: tuple[str, ...] = option(("20",), "steps between decisions, or epoch", extends=True)
    rhos: tuple[int, ...] = option(RHOS, "fixed times of a step, in examples", extends=True)
    of_tuned: tuple[float, ...] = option((1.0, 0.5), "shares of the tuned rate", extends=True)
    seeds: tuple[int, ...] = option(SEEDS, "of weights and draws", extends=True)
    tiny: bool = option(False, "an easy goal")


BENCHMARK = Benchmark(
    name="least_time",
    question="How soon does LeastTime reach a goal from a size too small, beside fixed sizes?",
    about=__doc__,
    row=Row,
    key=("task", "variant", "every", "rho", "rate", "seed"),
    measure=measure,
    options=Options(),
    quick=Options(tasks=("teacher",), rhos=(64,), of_tuned=(1.0,), seeds=(0,), tiny=True),
    tables={"least time": table},
    minutes=10,
    digits=9,
)
