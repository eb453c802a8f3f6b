"""The noise scale over the first frames of Pong.

An advantage actor-critic with a small convolution learns Pong with Adam from single frames of
84 × 84 grey levels. Every step has 8 micro-batches of frames from different environments, of which
``GradientNoiseScale`` reads the moments, so that B_simple holds what the correlation of the frames
in a row adds to the noise of a batch. An example is one frame that the agent sees: the emulator
shows four, and the agent acts in one of them. Runs are cut into bins of steps, and noise scales are
ratios of sums over a bin, or over several, and all seeds. McCandlish et al. 2018 train the same
kind of agent to the end, on several games; here it has only begun to learn.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.atlas.atlas_noise import sums
from benchmarks.atlas.averages import Bounded, Group, pooled
from benchmarks.atlas.noise_run import MICRO_BATCHES
from benchmarks.atlas.pong import PONG, Played, missing, play
from benchmarks.atlas.report import number
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import MISSING, markdown
from lightning_noise.core.student_t import student_t_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIRST_SEED = 1001
EARLY = 1 / 5  # of the steps
# Atari at the start and on average over the run, table 1 of the paper
PAPER = {"first fifth": "at the start: 100–1 000", "all steps": "average: 1 000–20 000"}


class Row(NamedTuple):
    """A bin of steps of one run.

    Args:
        seed: of weights, environments and actions.
        global_size: batch size, in frames.
        learning_rate: of Adam.
        last_step: at the end of the bin.
        steps: in the bin.
        score: mean of the latest 100 games that have ended by then; None before the first one.
        loss: mean training loss of the steps.
        measured: steps with a measurement; the sums are over these.
        signal, noise: sums of the unbiased |G|² and tr(Σ).
        signal_sq, noise_sq, cross: sums of their squares and of their product.
    """

    seed: int
    global_size: int
    learning_rate: float
    last_step: int
    steps: int
    score: float | None
    loss: float
    measured: int
    signal: float
    noise: float
    signal_sq: float
    noise_sq: float
    cross: float


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """One run at a time."""
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        if (seed,) not in done:
            played = play(options.global_size, options.learning_rate, options.steps, seed)
            yield rows_of(played, seed, options)


def rows_of(played: Played, seed: int, options: "Options") -> list[Row]:
    """The bins of a run."""
    rows = []
    for start in range(0, options.steps, options.bin):
        steps = range(start, min(start + options.bin, options.steps))
        losses = [played.losses[step] for step in steps]
        rows.append(
            Row(
                seed=seed,
                global_size=options.global_size,
                learning_rate=options.learning_rate,
                last_step=steps[-1] + 1,
                steps=len(steps),
                score=played.scores[steps[-1]],
                loss=math.fsum(losses) / len(steps),
                **sums(played.moments, steps),
            )
        )
    return rows


def by_bin(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows of all seeds by the last step of their bin, the first bin first."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.last_step):
        found.setdefault(row.last_step, []).append(row)
    return found


def parts_of(rows: Sequence[Row]) -> dict[str, Group]:
    """The sums over all seeds of the first fifth of the steps, of the others, and of all."""
    bins = by_bin(rows)
    last = max(bins)
    first, others = [], []
    for end, mine in bins.items():
        (first if end <= EARLY * last else others).extend(mine)
    return {"first fifth": pooled(first), "other steps": pooled(others), "all steps": pooled(rows)}


def interval_of(group: Group) -> Bounded:
    """B_simple of some steps; its interval is that of |G|²/tr(Σ), the reciprocal.

    The upper end is infinite where |G|² may be 0, and all are NaN with fewer than three steps.
    """
    if group.measured < 3 or group.noise <= 0:
        return Bounded(math.nan, math.nan, math.nan)
    ratio = group.signal / group.noise
    signal_var, noise_var, cross = group.covariance()
    variance = signal_var - 2 * ratio * cross + ratio**2 * noise_var
    quantile = student_t_quantile(0.975, group.measured - 1)
    half = quantile * math.sqrt(max(variance, 0.0)) / group.noise
    return Bounded(reciprocal(ratio), reciprocal(ratio + half), reciprocal(ratio - half))


def reciprocal(ratio: float) -> float:
    """Infinite where the ratio is not above 0."""
    if ratio <= 0:
        return math.inf
    return 1 / ratio


def in_frames(found: Bounded) -> str:
    """A noise scale with its interval; where that has no upper end, only the lower one."""
    if math.isnan(found.value) or math.isinf(found.low):
        return MISSING
    if math.isinf(found.high):
        return f"at least {number(found.low)}"
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def mean_score(rows: Sequence[Row]) -> float | None:
    """Over the seeds in which games have ended."""
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        return None
    return math.fsum(scores) / len(scores)


def table(rows: Sequence[Row]) -> str:
    """B_simple of the first steps, the others and all, beside the paper's."""
    lines = []
    if rows:
        for name, group in parts_of(rows).items():
            lines.append((name, in_frames(interval_of(group)), PAPER.get(name, MISSING)))
    return markdown(("", "B_simple in frames", "Atari in MC18, table 1"), lines)


def bins_table(rows: Sequence[Row]) -> str:
    """B_simple of every bin, and what has been learned by its end."""
    lines = []
    for last, mine in by_bin(rows).items():
        score = mean_score(mine)
        loss = math.fsum(row.loss for row in mine) / len(mine)
        lines.append(
            (
                f"{last * mine[0].global_size:,}".replace(",", " "),
                in_frames(interval_of(pooled(mine))),
                MISSING if score is None else f"{score:.1f}",
                f"{loss:.3f}",
            )
        )
    return markdown(("frames until", "B_simple", "mean score", "mean loss"), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple and the score against the frames that have been played.

    Bins without an upper end are triangles at their lower one; two parts of the table are bands.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 5), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    scores = []
    for last, mine in by_bin(rows).items():
        middle = (last - mine[0].steps / 2) * mine[0].global_size
        value, low, high = interval_of(pooled(mine))
        if math.isfinite(high):
            ends = [[value - low], [high - value]]
            upper.errorbar([middle], [value], yerr=ends, fmt="o", markersize=4, color="C0")
        elif math.isfinite(low):
            upper.plot([middle], [low], "^", markersize=5, color="C0", markerfacecolor="none")
        score = mean_score(mine)
        if score is not None:
            scores.append((last * mine[0].global_size, score))
    draw_parts(upper, rows)
    if scores:
        lower.plot(*np.array(scores).T, "o-", markersize=4, color="C1")
    upper.set(yscale="log", ylabel="B_simple, frames")
    lower.set(xlabel="frames", ylabel="mean score")
    for ax in (upper, lower):
        ax.grid(alpha=0.3)
    figure.savefig(path)


def draw_parts(ax: "Axes", rows: Sequence[Row]) -> None:
    """The first fifth of the steps and the others, each with its interval."""
    end = max(row.last_step for row in rows) * rows[0].global_size
    spans = {"first fifth": (0, EARLY * end), "other steps": (EARLY * end, end)}
    parts = parts_of(rows)
    for name, span in spans.items():
        value, low, high = interval_of(parts[name])
        if math.isfinite(high):
            ax.plot(span, [value, value], color="C2")
            ax.fill_between(span, low, high, color="C2", alpha=0.2, linewidth=0)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    seeds: int = option(2, "runs", extends=True, least=1)
    global_size: int = option(1024, "batch size, in frames", least=MICRO_BATCHES * PONG.segment)
    learning_rate: float = option(0.001, "of Adam")
    steps: int = option(200, "of a run", least=1)
    bin: int = option(20, "steps in a row of the table", least=3)


BENCHMARK = Benchmark(
    name="atlas_pong",
    question="What is B_simple over the first frames of Pong?",
    about=__doc__,
    row=Row,
    key=("seed",),
    measure=measure,
    options=Options(),
    quick=Options(seeds=1, global_size=128, steps=6, bin=3),
    tables={"atlas pong": table, "atlas pong bins": bins_table},
    minutes=11,
    needs="pip install '.[atlas]'",
    missing=missing,
    draw=draw,
    order=lambda row: (row.seed, row.last_step),
)
