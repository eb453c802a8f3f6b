"""How often does a policy change a size that is right, and how soon does it find one? Simulated
gradients, the real decisions.

A run has 20 epochs of 8192 examples with Gaussian gradients (|G|² = 1, a covariance spread evenly
over ``directions``) and decides after each epoch from the package's own running averages, which
decay per example. The columns:

- start: the global size at the start, in noise scales.
- changed: share of runs that changed the size at least once; at start 1, where nothing should
  change, these are false.
- changes: mean number of changes in a run.
- arrived: share of runs that came within a factor 1.56 of the noise scale by the end, and by the
  end of the 7th epoch.
- epochs: median and 95th percentile of the epochs until then (those that never did count as 21).
- end: median over runs of the size at the end, in noise scales of the end.

"95 % bound alone" is what the cautions are measured against: the size follows the estimate as soon
as a 95 % interval excludes it, whatever the predicted gain.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.harness.spec import Benchmark, Done, Simulated
from benchmarks.harness.tables import markdown, percent
from lightning_noise import TrackNoiseScale
from lightning_noise.adapt.policy import DECISION_CONFIDENCE
from lightning_noise.core.moments import Moments
from lightning_noise.core.windows import Windows

EPOCHS, EXAMPLES, NOISE, NEAR = 20, 8192, 256, 1.56


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One setting.

    Args:
        start: global size at the start, in noise scales.
        policy: "TrackNoiseScale", "TrackNoiseScale, shrink" or "95 % bound alone".
        groups: groups in a step: 0 for single examples, else so many micro-batches.
        directions: d_eff = tr(Σ)²/tr(Σ²).
        growth: factor of the noise scale from an epoch to the next.
    """

    start: float
    policy: str
    groups: int = 0
    directions: int = 400
    growth: float = 1.0


RULES = {
    "TrackNoiseScale": (TrackNoiseScale(), DECISION_CONFIDENCE),
    "TrackNoiseScale, shrink": (TrackNoiseScale(shrink=True), DECISION_CONFIDENCE),
    "95 % bound alone": (TrackNoiseScale(min_gain=0.0, shrink=True), 0.95),
}
SEEN = (
    {"groups": 0, "directions": 400},
    {"groups": 2, "directions": 400},
    {"groups": 0, "directions": 5},
)
REGIMES = (
    *(Regime(start=1, policy=policy, **seen) for seen in SEEN for policy in RULES),
    *(Regime(start=1 / 16, policy="TrackNoiseScale", **seen) for seen in SEEN),
    Regime(start=16, policy="TrackNoiseScale, shrink"),
    *(Regime(start=1, policy="TrackNoiseScale", growth=1.15, **seen) for seen in SEEN),
)


class Row(NamedTuple):
    """One line of the table; shares lie in [0, 1]."""

    start: float
    policy: str
    groups: str
    directions: int
    growth: float
    runs: int
    changed: float
    changes: float
    arrived: float
    arrived_by_7: float
    epochs_median: float
    epochs_95: float
    end: float


def epoch(
    rng: np.random.Generator, regime: Regime, b_simple: float, size: int
) -> Iterator[Moments]:
    """The moments of every step of an epoch, drawn from their exact distribution.

    The variance between groups is independent of the mean gradient (Cochran), and both are
    chi-squared up to scale.
    """
    steps, k, d = EXAMPLES // size, regime.groups or size, regime.directions
    variance = b_simple / d / size  # of the mean gradient, along each direction
    along = (1 + variance**0.5 * rng.standard_normal(steps)) ** 2
    big = along + variance * rng.chisquare(d - 1, steps)
    small = big + variance * rng.chisquare((k - 1) * d, steps)
    for q_small, q_big in zip(small.tolist(), big.tolist(), strict=True):
        yield Moments(q_small, q_big, k / size, 1 / size)


def simulate(rng: np.random.Generator, regime: Regime) -> list[int]:
    """The sizes of the epochs, the first that of the start, the last one decided after the last
    epoch.
    """
    policy, confidence = RULES[regime.policy]
    windows, sizes = Windows(0.99), [round(NOISE * regime.start)]
    for index in range(EPOCHS):
        for moments in epoch(rng, regime, NOISE * regime.growth**index, sizes[-1]):
            windows.update(moments, age=sizes[-1] / sizes[0])
        sizes.append(min(policy(windows.estimate(confidence), sizes[-1]).global_size, EXAMPLES))
    return sizes


def evaluate(regime: Regime, runs: int, seed: Sequence[int]) -> Row:
    """Simulates ``runs`` runs of one regime and counts."""
    rng = np.random.default_rng(seed)
    paths = [simulate(rng, regime) for _ in range(runs)]
    changes = [sum(a != b for a, b in itertools.pairwise(path)) for path in paths]
    last = NOISE * regime.growth ** (EPOCHS - 1)
    arrivals = [_arrival(path) for path in paths]
    return Row(
        start=regime.start,
        policy=regime.policy,
        groups=in_words(regime),
        directions=regime.directions,
        growth=regime.growth,
        runs=runs,
        changed=sum(map(bool, changes)) / runs,
        changes=statistics.fmean(changes),
        arrived=sum(arrival <= EPOCHS for arrival in arrivals) / runs,
        arrived_by_7=sum(arrival <= 7 for arrival in arrivals) / runs,
        epochs_median=statistics.median(arrivals),
        epochs_95=sorted(arrivals)[int(0.95 * (runs - 1))],
        end=statistics.median(path[-1] for path in paths) / last,
    )


def in_words(regime: Regime) -> str:
    """The groups of a step."""
    return f"{regime.groups} micro-batches" if regime.groups else "single examples"


def _arrival(path: Sequence[int]) -> int:
    near = (index for index, size in enumerate(path) if NOISE / NEAR <= size <= NOISE * NEAR)
    return next(near, EPOCHS + 1)


def measure(options: Simulated, done: Done) -> Iterator[list[Row]]:
    """Every regime, drawn from a seed of its own."""
    for index, regime in enumerate(REGIMES):
        key = (regime.start, regime.policy, in_words(regime), regime.directions, regime.growth)
        if key not in done:
            yield [evaluate(regime, options.runs, (options.seed, index))]


def table(rows: Sequence[Row]) -> str:
    """Shares in percent."""
    lines = []
    for r in rows:
        start = f"{r.start:g}" if r.start >= 1 else f"1/{1 / r.start:g}"
        lines.append(
            (
                start,
                r.policy,
                r.groups,
                str(r.directions),
                f"{r.growth:g}",
                percent(r.changed),
                f"{r.changes:.2f}",
                percent(r.arrived, 0),
                percent(r.arrived_by_7, 0),
                f"{r.epochs_median:g}, {r.epochs_95:g}",
                f"{r.end:.2f}",
            )
        )
    regime = ("start", "policy", "groups", "d_eff", "growth")
    found = ("changed %", "changes", "arrived %", "by 7 %", "epochs, 95 %", "end")
    return markdown((*regime, *found), lines)


BENCHMARK = Benchmark(
    name="policy",
    question="How often does a policy change a size that is right, and how soon does it find one?",
    about=__doc__,
    row=Row,
    key=("start", "policy", "groups", "directions", "growth"),
    measure=measure,
    options=Simulated(runs=400),
    quick=Simulated(runs=2),
    tables={"policy": table},
    minutes=2,
)
