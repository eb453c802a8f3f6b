"""Do adaptive runs reach the goal at the highest learning rate at which the start does?

    OMP_NUM_THREADS=1 python -m benchmarks.gain.edge

The edge is the highest rate, on a grid with factor 2^½ from the tuned one, at which the fixed start
reaches its goal with all of five seeds within 100 000 examples. Adaptive runs start there, with 20
seeds. Steps take 64 + B units of time. Writes ``results/edge.csv``.
"""

import csv
import dataclasses
import statistics
from pathlib import Path

import torch

from benchmarks.gain.least_time import VARIANTS, Run
from benchmarks.gain.sweep import SEEDS, best_rates, steps_to_goal
from benchmarks.gain.tasks import TASKS

FILE = Path(__file__).parent / "results" / "edge.csv"
NAMES = ("teacher", "digits CNN")
SHARES = (1.0, 2**0.5, 2.0, 2**1.5, 4.0)  # of the tuned rate
RHO = 64


def edge(name: str) -> float:
    """The highest share of the tuned rate at which all seeds of the start reach the goal."""
    task = dataclasses.replace(TASKS[name], most_examples=100_000)
    tuned = best_rates(name)[task.start]
    rates = [tuned * share for share in SHARES]
    reached = steps_to_goal(task, task.start, rates, SEEDS, all_lanes=True)
    good = reached.isfinite().all(1).tolist()
    return max(share for share, all_reached in zip(SHARES, good, strict=True) if all_reached)


def main() -> None:
    """Runs, prints and writes."""
    torch.set_num_threads(1)
    rows = [("task", "variant", "of_tuned", "runs", "missed", "jumps", "mean_time", "worst_time")]
    for name in NAMES:
        share = edge(name)
        rate = best_rates(name)[TASKS[name].start] * share
        for variant in ("middle", "optimal"):
            missed = jumps = 0
            times = []
            for seed in range(20):
                run = Run(TASKS[name], VARIANTS[variant](), RHO, rate, seed, every=20)
                missed += not run.to_goal()
                jumps += run.machine.state.guard.jumps
                times.append(run.time)
            mean, worst = round(statistics.fmean(times)), round(max(times))
            rows.append((name, variant, f"{share:.4g}", 20, missed, jumps, mean, worst))
            print(*rows[-1], flush=True)
    with FILE.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
