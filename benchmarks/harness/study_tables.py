"""Tables of the two studies of scikit-learn's digits, from the tables that their examples wrote."""

from collections.abc import Iterable, Iterator

from benchmarks.harness.spec import RESULTS
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.report.runs import reruns_of, runs_of
from lightning_noise.report.table import of_goal, read_table
from lightning_noise.say.words import number
from lightning_noise.study.result import StudyResult

LATE = ", late"


def tables() -> Iterator[tuple[str, str]]:
    """All of them, by name."""
    digits = _result("study_digits")
    yield "study digits", _goals(digits)
    yield "study digits, steps", _steps(digits)
    cnn = _result("study_cnn")
    yield "study cnn, sizes", _sizes(cnn, cnn.goals[0])
    yield "study cnn", _fits(cnn)


def _result(name: str) -> StudyResult:
    return StudyResult.from_table(read_table(RESULTS / f"{name}.csv"))


def _goals(result: StudyResult) -> str:
    """The fits, and the noise scales of the tuned runs beside them."""
    lines = []
    for goal in result.goals:
        found = result.compare(goal)
        residual = f"{100 * result.fits[goal].residual:.1f} %"
        scales = map(_short, (found.start, found.average, found.end, found.ratio))
        lines.append((goal, *_fit(result.fits[goal]), residual, *scales))
    head = ["goal", "S_min", "E_min", "B_crit [95 %]", "rms of ln S about the curve"]
    head += ["B_simple at the start", "on average", "at the end", "average / B_crit"]
    return markdown(head, lines)


def _steps(result: StudyResult) -> str:
    """The steps to the late goals with the best learning rates, one row per optimizer."""
    late = [goal for goal in result.goals if goal.endswith(LATE)]
    sizes = list(result.steps(late[0]))
    lines = []
    for goal in late:
        cells = _steps_and_rates(result, goal, sizes)
        lines.append((goal.removesuffix(LATE), *cells))
    return markdown(("B", *map(str, sizes)), lines)


def _sizes(result: StudyResult, goal: str) -> str:
    """What the reruns needed at each batch size, and what they were allowed."""
    sizes = list(result.steps(goal))
    reached, slowest = [], []
    for size in sizes:
        runs = reruns_of(runs_of(of_goal(result.table, goal)))
        here = [run for run in runs if run.global_size == size]
        steps = [run.steps for run in here if run.reached and run.steps is not None]
        reached.append(f"{len(steps)} of {len(here)}")
        slowest.append(f"{max(steps):.0f}, {here[0].budget_steps}")
    lines = [
        ("steps to 95 % (best rate)", *_steps_and_rates(result, goal, sizes)),
        ("reruns that reached it", *reached),
        ("slowest rerun, budget", *slowest),
    ]
    return markdown(("B", *map(str, sizes)), lines)


def _fits(result: StudyResult) -> str:
    """The fits by accuracy, the easiest goal first."""
    targets = {goal: float(goal.rpartition(" ")[2]) for goal in result.goals}
    lines = []
    for goal in sorted(targets, key=lambda name: targets[name]):
        lines.append((f"{100 * targets[goal]:g} %", *_fit(result.fits[goal])))
    return markdown(("accuracy", "S_min", "E_min", "B_crit [95 %]"), lines)


def _steps_and_rates(result: StudyResult, goal: str, sizes: Iterable[float]) -> list[str]:
    steps, rates = result.steps(goal), result.learning_rates(goal)
    return [f"{steps[size]:.0f} ({_short(rates[size])})" for size in sizes]


def _fit(fit: CriticalBatchSize) -> tuple[str, str, str]:
    ends = []
    for end in (fit.low, fit.high):
        ends.append(number(end) if end is not None else MISSING)
    b_crit = f"{number(fit.b_crit)} [{ends[0]}, {ends[1]}]"
    return number(fit.s_min), number(fit.e_min), b_crit


def _short(value: float | None) -> str:
    """Two digits."""
    if value is None:
        return MISSING
    return number(float(f"{value:.2g}"))
