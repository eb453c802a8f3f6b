"""How often does ``LeastTime`` change a size that is right, and how soon does it arrive?

The simulated gradients are those of ``policy`` (|G|² = 1, noise scale 480, spread over 400
directions, single examples as groups), epochs have 8192 examples, decisions are taken between them
from the package's own averages, and a step of B examples takes 64 + B units of time with a jitter
of 10 %. The best doubling from 10 is then 160 (``waste`` forbids 320), next to the best size, 175.

A row has the share of runs that left 160 or passed it, the share that arrived at it, and the median
of the epochs until then.
"""

import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.gain.driven import Driven
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import table_of
from benchmarks.right.policy import EXAMPLES, Regime, epoch
from lightning_noise import AdaptiveBatchSize

NOISE, EPOCHS, RHO, BEST = 480, 16, 64, 160
STARTS = (10, 40, BEST)
REGIME = Regime(start=1, policy="LeastTime")


class Row(NamedTuple):
    """Runs from one size; shares lie in [0, 1]."""

    start: int
    runs: int
    false_changes: float
    arrived: float
    median_epochs: float


def simulate(seed: int, start: int) -> list[int]:
    """Sizes of the epochs."""
    rng = np.random.default_rng((seed, start))
    jitter = random.Random(seed)
    driven = Driven(AdaptiveBatchSize(), start, EXAMPLES)
    sizes: list[int] = []
    steps = 0
    for number in range(EPOCHS):
        size = driven.size
        sizes.append(size)
        for moments in epoch(rng, REGIME, NOISE, size):
            driven.windows.update(moments)
            steps += 1
        durations = [(RHO + size) * (1 + 0.1 * jitter.random()) for _ in range(40)]
        driven.decide(durations, steps, (number + 1.0) * EXAMPLES)
    return sizes


def evaluate(start: int, runs: int) -> Row:
    """Simulates and counts."""
    wrong = 0
    arrivals = []
    for seed in range(runs):
        path = simulate(seed, start)
        after = path[path.index(BEST) :] if BEST in path else []
        wrong += max(path) > BEST or len(set(after)) > 1
        if BEST in path:
            arrivals.append(path.index(BEST))
    epochs = statistics.median(arrivals) if arrivals else math.nan
    return Row(start, runs, wrong / runs, len(arrivals) / runs, epochs)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """From every size."""
    for start in STARTS:
        if (start,) not in done:
            yield [evaluate(start, options.runs)]


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    runs: int = option(100, "from each size", least=1)


BENCHMARK = Benchmark(
    name="least_time_changes",
    question="How often does LeastTime change a size that is right, and how soon does it arrive?",
    about=__doc__,
    row=Row,
    key=("start",),
    measure=measure,
    options=Options(),
    quick=Options(runs=2),
    tables={"least time changes": table_of(false_changes=".1%", arrived=".0%", median_epochs="g")},
    minutes=0.2,
)
