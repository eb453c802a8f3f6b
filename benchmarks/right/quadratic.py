"""What do the condition number and the learning rate do to B_crit/B_noise? A noisy quadratic, steps
in closed form.

McCandlish et al. 2018 predict B_crit from B_noise = tr(HΣ)/(GᵀHG) for a learning rate that is the
best at every step, and leave open what a badly conditioned loss and another rate do to it. Here
loss ½ Σ h_i θ_i² has ``dimensions`` curvatures, evenly spaced in the logarithm from 1/κ to 1,
gradient noise of variance h_i/B, E θ_i² = 1 at the start, and the goal is 1 % of the first loss.
The expected loss is followed exactly, E θ_i² ← (1 − ε h_i)² E θ_i² + ε² h_i/B, so nothing is
random. Two schedules:

- greedy: ε is ``ratio`` times the rate that lowers the expected loss most, at every step: ε_opt =
  |G|²/(GᵀHG + tr(HΣ)/B);
- constant: ε is ``ratio`` times the best constant rate of this batch size. Above 1 it is rarely
  possible: the best constant rate ends just below the goal.

Steps are measured at batch sizes from B_crit/64 to 64·B_crit, a factor 2 apart, with the crossing
interpolated between whole steps; where the goal is out of reach at one of them, the line has no
b_crit. All noise scales are of expected values, in examples, over the run at the batch size next to
B_crit. The columns:

- b_crit, s_min and residual: the package's fit. residual: how far S(B) is from a hyperbola (rms of
  ln S).
- b_noise: at the start, averaged over steps, and at the end; "progress": averaged over progress s,
  where a step counts 1/(1 + B_noise/B). As S = ∫ (1 + B_noise/B) ds, this is the average that
  should be B_crit.
- b_simple: tr(Σ)/|G|² averaged over steps.
- crit/noise, crit/progress, crit/simple: b_crit over these three averages.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise import CriticalBatchSize
from testing.quadratic import best_steps, lowest_loss

Array = NDArray[np.float64]

CONDITIONS = (1, 10, 100)
RATIOS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
REACH = 6  # octaves to each side of b_crit
MOST_STEPS = 200_000


class Moment(NamedTuple):
    """The two noise scales at one step, in examples."""

    b_noise: float
    noise_scale: float


class Run(NamedTuple):
    """Steps to the goal, and the noise scales of the steps on the way."""

    steps: float
    moments: list[Moment]


class Row(NamedTuple):
    """One line of the table; b_crit and what follows it are None where the goal is out of reach at
    some batch size.
    """

    schedule: str
    condition: float
    ratio: float
    sizes: int
    b_crit: float | None
    s_min: float | None
    residual: float | None
    b_noise_start: float | None = None
    b_noise_mean: float | None = None
    b_noise_end: float | None = None
    b_noise_progress: float | None = None
    b_simple_mean: float | None = None
    crit_to_noise: float | None = None
    crit_to_progress: float | None = None
    crit_to_simple: float | None = None


def spectrum(condition: float, dimensions: int = 1000) -> Array:
    """Curvatures from 1/condition to 1, evenly spaced in the logarithm."""
    return np.logspace(-math.log10(condition), 0, dimensions)


def moment(curvature: Array, square: Array) -> Moment:
    """The noise scales where E θ_i² = ``square``; the variance of one example's gradient is the
    curvature.
    """
    h2, h3 = curvature**2 * square, curvature**3 * square
    return Moment(float((curvature**2).sum() / h3.sum()), float(curvature.sum() / h2.sum()))


def greedy_rate(curvature: Array, square: Array, B: float) -> float:
    """The rate that lowers the expected loss most (McCandlish et al. 2018, eq. 2.6, with expected
    values).
    """
    grad_sq = float((curvature**2 * square).sum())
    return grad_sq / float((curvature**3 * square).sum() + (curvature**2).sum() / B)


def run(curvature: Array, B: float, rate: Callable[[Array], float], goal: float) -> Run:
    """Follows the expected squares until the loss crosses ``goal``; infinite steps where it stalls
    above it.
    """
    square = np.ones_like(curvature)
    loss, moments = float(curvature.sum() / 2), list[Moment]()
    while len(moments) < MOST_STEPS:
        moments.append(moment(curvature, square))
        eps = rate(square)
        square = (1 - eps * curvature) ** 2 * square + eps**2 * curvature / B
        before, loss = loss, float((curvature * square).sum() / 2)
        if loss <= goal:
            return Run(len(moments) - 1 + (before - goal) / (before - loss), moments)
        if not loss < before:
            break
    return Run(math.inf, moments)


def greedy(curvature: Array, ratio: float, goal: float) -> Callable[[float], Run]:
    """Batch size → run at ``ratio`` times the best rate of every step."""
    return lambda B: run(
        curvature, B, lambda square: ratio * greedy_rate(curvature, square, B), goal
    )


def constant(curvature: Array, ratio: float, goal: float) -> Callable[[float], Run]:
    """Batch size → run at ``ratio`` times the best constant rate of this batch size."""

    def at(B: float) -> Run:
        rate = ratio * best_steps(B, goal, curvature).rate
        if lowest_loss(B, rate, curvature) >= goal:
            return Run(math.inf, [])
        return run(curvature, B, lambda _: rate, goal)

    return at


def measure(schedule: str, condition: float, ratio: float, dimensions: int) -> Row:
    """One line: finds where b_crit lies, then measures around it and fits."""
    curvature = spectrum(condition, dimensions)
    goal = float(curvature.sum() / 2) / 100
    at = {"greedy": greedy, "constant": constant}[schedule](curvature, ratio, goal)
    centre = fmean(m.b_noise for m in greedy(curvature, 0.25, goal)(1e12).moments)
    nothing = Row(schedule, condition, ratio, 0, None, None, None)
    for _ in range(6):
        runs = {centre * 2.0**k: at(centre * 2.0**k) for k in range(-REACH, REACH + 1)}
        reached = [size for size, found in runs.items() if found.steps < math.inf]
        if len(reached) < len(runs):
            return nothing._replace(sizes=len(reached))
        fit = CriticalBatchSize.fit(reached, [runs[size].steps for size in reached])
        if abs(math.log2(fit.b_crit / centre)) < 0.5:
            break
        centre = fit.b_crit
    B = min(runs, key=lambda size: abs(math.log(size / fit.b_crit)))
    moments = runs[B].moments
    progress = [1 / (1 + m.b_noise / B) for m in moments]
    mean = fmean(m.b_noise for m in moments)
    by_progress = sum(m.b_noise * p for m, p in zip(moments, progress, strict=True)) / sum(progress)
    simple = fmean(m.noise_scale for m in moments)
    ratios = (fit.b_crit / mean, fit.b_crit / by_progress, fit.b_crit / simple)
    scales = (moments[0].b_noise, mean, moments[-1].b_noise, by_progress, simple)
    return Row(
        schedule,
        condition,
        ratio,
        len(reached),
        fit.b_crit,
        fit.s_min,
        fit.residual,
        *scales,
        *ratios,
    )


def all_lines(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Both schedules at all conditions and rates."""
    for schedule in ("greedy", "constant"):
        for condition in options.conditions:
            for ratio in RATIOS:
                if (schedule, condition, ratio) not in done:
                    yield [measure(schedule, condition, ratio, options.dimensions)]


def table(schedule: str) -> Callable[[Sequence[Row]], str]:
    """B_crit over the mean B_noise, by condition and rate.

    In brackets: fewer than two steps at large batches, so that the law's continuous steps do not
    hold.
    """

    def made(rows: Sequence[Row]) -> str:
        mine = [row for row in rows if row.schedule == schedule]
        lines = []
        for condition in dict.fromkeys(row.condition for row in mine):
            cells = [as_cell(row) for row in mine if row.condition == condition]
            lines.append((f"κ = {condition:g}", *cells))
        return markdown((HEADS[schedule], *(f"{ratio:g}" for ratio in RATIOS)), lines)

    return made


HEADS = {
    "greedy": "rate at every step, relative to the best",
    "constant": "constant rate, relative to the best of its batch size",
}


def as_cell(row: Row) -> str:
    """B_crit/B_noise."""
    if row.crit_to_noise is None or row.s_min is None:
        return MISSING
    text = f"{row.crit_to_noise:.0f}"
    if row.crit_to_noise < 10:
        text = f"{row.crit_to_noise:#.2g}"
    return f"({text})" if row.s_min < 2 else text


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    dimensions: int = option(1000, "curvatures of the loss", least=1)
    conditions: tuple[int, ...] = option(CONDITIONS, "condition numbers", extends=True)


BENCHMARK = Benchmark(
    name="quadratic",
    question="What do the condition number and the learning rate do to B_crit/B_noise?",
    about=__doc__,
    row=Row,
    key=("schedule", "condition", "ratio"),
    measure=all_lines,
    options=Options(),
    quick=Options(dimensions=5, conditions=(10,)),
    tables={"quadratic greedy": table("greedy"), "quadratic constant": table("constant")},
    minutes=1,
)
