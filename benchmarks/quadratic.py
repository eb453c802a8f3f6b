"""What do the condition number and the learning rate do to B_crit/B_noise? A noisy quadratic, steps
in closed form.

    python benchmarks/quadratic.py [--csv benchmarks/results/quadratic.csv]

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

import argparse
import csv
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from numpy.typing import NDArray

from lightning_noise import CriticalBatchSize
from testing.quadratic import CURVATURE, GOAL, best_steps, lowest_loss

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


def model() -> tuple[CriticalBatchSize, list[tuple[float, float, float]]]:
    """The model h_i = c_i = 1/i of the tests at its best constant rates: the fit, and (B, steps,
    rate).
    """
    found = [(float(2**k), *best_steps(2.0**k)) for k in range(3, 17)]
    return CriticalBatchSize.fit(
        [size for size, _, _ in found], [steps for _, steps, _ in found]
    ), found


def markdown(rows: Sequence[Row]) -> str:
    """The rows as an aligned markdown table."""
    titles = (
        "schedule",
        "κ",
        "ε/ε_opt",
        "sizes",
        "b_crit",
        "s_min",
        "residual",
        "b_noise start",
        "mean",
        "end",
    )
    more = ("progress", "b_simple mean", "crit/noise", "crit/progress", "crit/simple")
    cells: list[tuple[str, ...]] = [(*titles, *more)]
    cells += [tuple(map(as_cell, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def as_cell(value: float | str | None) -> str:
    """A dash for what is not defined, three digits of a number."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:.3g}"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows; None is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(
            [f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows
        )


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures every line, prints the table and returns its rows."""
    parser = argparse.ArgumentParser(
        description="B_crit/B_noise against condition number and learning rate, in closed form."
    )
    parser.add_argument("--dimensions", type=int, default=1000)
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    args = parser.parse_args(argv)
    if args.dimensions < 1:
        parser.error(f"--dimensions must be at least 1, got {args.dimensions}")
    fit, found = model()
    print(f"h_i = c_i = 1/i, i = 1 … {len(CURVATURE)}, goal {GOAL}, best constant rate:")
    for size, steps, rate in found:
        print(
            f"  B {size:6g}: {steps:8.1f} steps at rate {rate:.4f}; the fit says "
            f"{fit.steps(size):8.1f}"
        )
    bounds = f"[{fit.low:.0f}, {fit.high:.0f}]" if fit.low and fit.high else "(an end is open)"
    print(f"  b_crit {fit.b_crit:.0f} {bounds}, residual {fit.residual:.3f}\n")
    cases = [(s, k, r) for s in ("greedy", "constant") for k in CONDITIONS for r in RATIOS]
    rows = [
        measure(schedule, condition, ratio, args.dimensions) for schedule, condition, ratio in cases
    ]
    print(markdown(rows))
    if args.csv:
        write_csv(args.csv, rows)
    return rows


if __name__ == "__main__":
    main()
