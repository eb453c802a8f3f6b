"""How far off are the steps and B_crit of a study, because of how it chooses its learning rates?
Simulated runs, the package's own plan and fit.

A run at batch size B and x times the edge of stability takes S(B)/g(x) steps to the goal, times a
log-normal error with standard deviation 0.2. It never reaches the goal at or beyond the edge, nor,
by chance, with probability 1/(1 + x^-8). There are two kinds of edge:

- smooth: g(x) is proportional to x (1 - x), as on a quadratic loss. The best rate is half of the
  edge, and rates near the edge are slow.
- cliff: g(x) is proportional to x. Near the edge runs are the quickest, where they do not fail.

S(B) = 100 (1 + 64/B) is the least median over all rates with which 95 % of the runs reach the goal,
the others counted as infinite. The rates go from a twelfth of the edge to three times the edge, in
eight sizes from 8 to 1024, with a budget of ten times S(B). There are two protocols:

- one seed: the protocol until this version. 32 rates with one seed, 8 more around the quickest run,
  and 8 reruns of the quickest of all; runs end where they can no longer be the quickest.
- halving: successive halving over seeds, 20 → 10 → 5 → 3 → 2 → 1, and 8 reruns. Runs end as
  ``Search`` says. It takes as many runs as the other one.
- halving, fewer trials: 14 → 7 → 4 → 2 → 1, which trains about as many steps as "one seed".

The columns:

- steps: steps trained at a size, all runs together, as multiples of S(B).
- s_bias: mean of ln(measured S / S(B)), over sizes and studies. s.e.: over studies.
- left_out: share of sizes whose reruns reached the goal in half of the cases or fewer.
- b_rms: root mean square of ln(B_crit / 64). s.e.: by the delta method.
- refused: share of studies without a fit, which are left out of it.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

from optuna.distributions import FloatDistribution

from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown, percent
from lightning_noise import CriticalBatchSize
from lightning_noise.core.critical import NoFitError
from lightning_noise.report.runs import Run, steps_by_size
from lightning_noise.report.terms import INCOMPLETE, REACHED, RERUN
from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.settings import Search
from lightning_noise.study.space import at_position, points, position
from lightning_noise.study.state import steps_of
from lightning_noise.study.task import Record
from testing.fake_runs import record

SIZES = tuple(2**k for k in range(3, 11))
B_CRIT = 64.0
S_MIN = 100.0
NOISE = 0.2
STEEP = 8
SAFE = 0.95  # share of runs that reach the goal at a rate that may be used
RATES = FloatDistribution(1 / 12, 3.0, log=True)
TRIALS, REFINE, SEEDS = 32, 8, 8
WAVE = 4
CHECKS = 100  # validations in a budget
GOAL = Goal(metric="loss", target=1)


class Row(NamedTuple):
    """One protocol in many simulated studies."""

    edge: str
    protocol: str
    studies: int
    runs: float
    steps: float
    s_bias: float
    s_error: float
    left_out: float
    b_rms: float
    b_error: float
    refused: float


EDGES: dict[str, Callable[[float], float]] = {
    "smooth": lambda rate: rate * (1 - rate),
    "cliff": lambda rate: rate,
}


def failing(rate: float) -> float:
    """Share of runs that never reach the goal."""
    return 1 / (1 + rate**-STEEP)


@cache
def least_median(edge: str) -> float:
    """The least median of the steps over all rates that may be used, in units of 1/g."""
    medians = []
    for rate in (share / 1000 for share in range(100, 1000)):
        reached = 1 - failing(rate)
        if reached > SAFE:
            error = NormalDist(0, NOISE).inv_cdf(0.5 / reached)
            medians.append(math.exp(error) / EDGES[edge](rate))
    return min(medians)


class World:
    """The runs of one study.

    Args:
        edge: kind of edge of stability.
        number: of the study.
    """

    def __init__(self, edge: str, number: int) -> None:
        self._gain = EDGES[edge]
        self._number = number
        self._least = least_median(edge)

    def best(self, size: int) -> float:
        """S(B) at the best rate."""
        return S_MIN * (1 + B_CRIT / size)

    def budget(self, size: int) -> int:
        """Steps that a run may take, and at the end of which it is validated."""
        return round(10 * self.best(size) / CHECKS) * CHECKS

    def steps(self, size: int, rate: float, seed: int) -> float:
        """Steps of a run to the goal; infinite where it never reaches it."""
        own = random.Random(f"{self._number} {size} {rate} {seed}")
        error = own.gauss(0, NOISE)
        if own.random() < failing(rate) or rate >= 1:
            return math.inf
        return self.best(size) / (self._gain(rate) * self._least) * math.exp(error)


class Found(NamedTuple):
    """What a protocol found at one batch size: steps of the reruns, and what it cost."""

    reruns: list[float]
    runs: int
    trained: int


def one_seed(world: World, size: int, number: int) -> Found:
    """The protocol until this version."""
    budget = world.budget(size)
    every = budget // CHECKS
    space = {"rate": RATES}
    rates = [point["rate"] for point in points(space, TRIALS, number)]
    steps: list[float] = []
    trained = 0
    while True:
        for rate in rates[len(steps) : len(steps) + WAVE]:
            cap = budget
            best = min(steps[: len(steps) // WAVE * WAVE], default=math.inf)
            if best <= budget:
                cap = min(budget, (math.floor(best / every) + 2) * every)
            found, took = _ended(world.steps(size, rate, 0), cap, every)
            steps.append(found)
            trained += took
        if len(steps) == TRIALS and not math.isinf(min(steps)):
            rates += [point["rate"] for point in points(_around(rates, steps), REFINE, number)]
        if len(steps) == len(rates):
            break
    reruns = []
    if not math.isinf(min(steps)):
        winner = rates[steps.index(min(steps))]
        for seed in range(1, SEEDS + 1):
            found, took = _ended(world.steps(size, winner, seed), budget, every)
            reruns.append(found)
            trained += took
    return Found(reruns, len(steps) + len(reruns), trained)


def _around(rates: Sequence[float], steps: Sequence[float]) -> dict[str, FloatDistribution]:
    """Twice the distance of the points to each side of the quickest run."""
    u = position(RATES, rates[steps.index(min(steps))])
    low = at_position(RATES, max(u - 2 / TRIALS, 0.0))
    high = at_position(RATES, min(u + 2 / TRIALS, 1.0))
    return {"rate": FloatDistribution(low, high, log=True)}


def _ended(steps: float, cap: int, every: int) -> tuple[float, int]:
    """Steps to the goal of a run that ends at ``cap``, and the steps that it trained."""
    if steps > cap:
        return math.inf, cap
    return steps, math.ceil(steps / every) * every


def halving(world: World, size: int, number: int, *, trials: int = 20) -> Found:
    """The protocol of ``Search``."""
    budget = world.budget(size)
    every = budget // CHECKS
    plan = SizePlan(
        global_size=size,
        space={"learning_rate": RATES},
        goals=(GOAL,),
        search=Search(trials=trials, seeds=SEEDS, widen=0, seed=number),
        budget_steps=budget,
        every=every,
    )
    done: dict[Any, tuple[Record, ...]] = {}
    while True:
        tasks = plan.next_tasks(done)
        if not tasks:
            break
        for task in tasks:
            steps = world.steps(size, task.parameters["learning_rate"], task.seed)
            crossing = None if math.isinf(steps) else steps
            left = record({GOAL.metric: crossing}, task.max_steps, every)
            done[task.key] = (left,)
    state = plan.state(done)
    reruns = []
    trained = 0
    for key, outcome in state.outcomes.items():
        trained += outcome.trained
        if key.phase == RERUN:
            reruns.append(steps_of(outcome, GOAL))
    return Found(reruns, len(state.outcomes), trained)


PROTOCOLS: dict[str, Callable[[World, int, int], Found]] = {
    "one seed": one_seed,
    "halving": halving,
    "halving, fewer trials": partial(halving, trials=14),
}


class Study(NamedTuple):
    """One simulated study: per size, and its fit."""

    runs: float
    trained: float
    biases: list[float]
    b_error: float | None


def simulated(edge: str, protocol: str, number: int) -> Study:
    """All sizes of one study."""
    world = World(edge, number)
    rows = []
    runs, trained = [], []
    for size in SIZES:
        found = PROTOCOLS[protocol](world, size, number)
        runs.append(found.runs)
        trained.append(found.trained / world.best(size))
        rows += [_row(size, steps) for steps in found.reruns]
    measured = steps_by_size(rows)
    biases = [math.log(steps / world.best(int(size))) for size, steps in measured.items()]
    error = None
    try:
        fit = CriticalBatchSize.fit(list(measured), list(measured.values()))
        error = math.log(fit.b_crit / B_CRIT)
    except NoFitError:
        pass
    return Study(fmean(runs), fmean(trained), biases, error)


def _row(size: int, steps: float) -> Run:
    if math.isinf(steps):
        return Run(GOAL.name, size, RERUN, INCOMPLETE, None)
    return Run(GOAL.name, size, RERUN, REACHED, steps)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """A row for each protocol and curve."""
    for edge in EDGES:
        for protocol in PROTOCOLS:
            if (edge, protocol) in done:
                continue
            first = options.seed * options.studies
            numbers = range(first, first + options.studies)
            yield [row_of(edge, protocol, [simulated(edge, protocol, n) for n in numbers])]


def row_of(edge: str, protocol: str, studies: Sequence[Study]) -> Row:
    """Means over studies, with their standard errors."""
    means = [fmean(study.biases) for study in studies if study.biases]
    squares = [study.b_error**2 for study in studies if study.b_error is not None]
    sizes = sum(len(study.biases) for study in studies)
    rms = math.sqrt(fmean(squares))
    return Row(
        edge=edge,
        protocol=protocol,
        studies=len(studies),
        runs=fmean(study.runs for study in studies),
        steps=fmean(study.trained for study in studies),
        s_bias=fmean(means),
        s_error=stdev(means) / math.sqrt(len(means)),
        left_out=1 - sizes / (len(SIZES) * len(studies)),
        b_rms=rms,
        b_error=stdev(squares) / math.sqrt(len(squares)) / (2 * rms),
        refused=1 - len(squares) / len(studies),
    )


def table(rows: Sequence[Row]) -> str:
    """A line for each protocol and curve."""
    lines = []
    for row in rows:
        bias = f"{percent(math.expm1(row.s_bias)):>} ± {percent(row.s_error)} %"
        scatter = f"{row.b_rms:.3f} ± {row.b_error:.3f}"
        cost = (f"{row.runs:.1f}", f"{row.steps:.1f}")
        left = (f"{percent(row.left_out)} %", f"{percent(row.refused)} %")
        lines.append((row.edge, row.protocol, *cost, bias, scatter, *left))
    head = ("edge", "protocol", "runs at a size", "steps trained / S", "bias of S")
    return markdown((*head, "rms of ln B_crit", "sizes left out", "no fit"), lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    studies: int = option(200, "simulated studies of each kind")
    seed: int = option(0, "of all random numbers")


BENCHMARK = Benchmark(
    name="study_protocol",
    question="How far off are S and B_crit because of how a study chooses learning rates?",
    about=__doc__,
    row=Row,
    key=("edge", "protocol"),
    measure=measure,
    options=Options(),
    quick=Options(studies=3),
    tables={"study protocol": table},
    minutes=8,
)
