"""How often does ``LeastTime`` change a size that is right, and how soon does it arrive?

    python -m benchmarks.gain.least_time_changes [--runs 100]

Gradients are Gaussian (|G|² = 1, noise scale 480, spread over 400 directions), epochs have 8192
examples, decisions are taken between them from the package's own averages, and a step of B examples
takes 64 + B units of time with a jitter of 10 %. The best doubling from 10 is then 160 (``waste``
forbids 320), next to the best size, 175.

Writes ``results/least_time_changes.csv``: start, share of runs that left 160 or passed it, share
that arrived at it, and the median of the epochs until then.
"""

import argparse
import csv
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lightning_noise import AdaptiveBatchSize
from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.core.moments import Moments
from lightning_noise.core.windows import Windows

FILE = Path(__file__).parent / "results" / "least_time_changes.csv"
NOISE, DIRECTIONS, EXAMPLES, EPOCHS, RHO, BEST = 480, 400, 8192, 16, 64, 160


def epoch(rng: np.random.Generator, size: int) -> Iterator[Moments]:
    """The moments of every step, with single examples as groups (Cochran)."""
    steps = EXAMPLES // size
    variance = NOISE / DIRECTIONS / size
    along = (1 + variance**0.5 * rng.standard_normal(steps)) ** 2
    big = along + variance * rng.chisquare(DIRECTIONS - 1, steps)
    small = big + variance * rng.chisquare((size - 1) * DIRECTIONS, steps)
    for q_small, q_big in zip(small.tolist(), big.tolist(), strict=True):
        yield Moments(q_small, q_big, 1.0, 1 / size)


def simulate(seed: int, start: int) -> list[int]:
    """Sizes of the epochs."""
    rng = np.random.default_rng((seed, start))
    jitter = random.Random(seed)
    machine = Adaptation(AdaptiveBatchSize())
    machine.begin_fit(Mark(0, 0.0), BatchPlan(start, 1, 1))
    windows = Windows(0.99)
    sizes: list[int] = []
    steps = 0
    for number in range(EPOCHS):
        machine.begin_epoch(number, EXAMPLES)
        plan = machine.state.sizes
        assert plan is not None
        size = plan.current.global_size
        sizes.append(size)
        for moments in epoch(rng, size):
            windows.update(moments)
            steps += 1
        machine.timed([(RHO + size) * (1 + 0.1 * jitter.random()) for _ in range(40)])
        used = (number + 1.0) * EXAMPLES
        estimate = windows.estimate(0.99)
        measured = Measurement(estimate, size, steps, used, None, estimate.noise_scale)
        machine.end_epoch(measured, Limits())
    return sizes


def main() -> None:
    """Simulates, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    rows = [("start", "runs", "false_changes", "arrived", "median_epochs")]
    for start in (10, 40, BEST):
        paths = [simulate(seed, start) for seed in range(runs)]
        wrong = 0
        arrivals = []
        for path in paths:
            after = path[path.index(BEST) :] if BEST in path else []
            wrong += max(path) > BEST or len(set(after)) > 1
            if BEST in path:
                arrivals.append(path.index(BEST))
        epochs = statistics.median(arrivals) if arrivals else ""
        rows.append((start, runs, wrong / runs, len(arrivals) / runs, epochs))
    for row in rows:
        print(*row)
    with FILE.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
