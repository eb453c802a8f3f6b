"""The final validation loss after fixed examples with a cosine schedule, adaptive and fixed.

    OMP_NUM_THREADS=1 python -m benchmarks.gain.cosine_quality

All runs start at the tuned rate of the start's size and use as many examples; the schedule goes by
examples. A step takes 64 + B units of time. Writes ``results/cosine_quality.csv``: mean validation
loss over 4096 fresh examples with its standard error, mean steps and mean time.
"""

import csv
import math
import statistics
from pathlib import Path

import torch

from benchmarks.gain.least_time import Run
from benchmarks.gain.sweep import best_rates
from benchmarks.gain.tasks import TASKS, Task
from lightning_noise import AdaptiveBatchSize, LeastTime

FILE = Path(__file__).parent / "results" / "cosine_quality.csv"
NAMES = ("noisy digits", "teacher", "patches")
EXAMPLES = 32_768
SEEDS = 4
RHO = 64
SETTINGS = {
    "start": lambda: AdaptiveBatchSize(lambda _, size: (round(size), "keep: fixed")),
    "LeastTime()": lambda: AdaptiveBatchSize(),
    "LeastTime(0.25)": lambda: AdaptiveBatchSize(LeastTime(0.25)),
    "LeastTime(1.0)": lambda: AdaptiveBatchSize(LeastTime(1.0)),
}


def validation_loss(task: Task, flat: torch.Tensor) -> float:
    """On the same fresh draws for all runs."""
    draw = task.draw(torch.Generator().manual_seed(99), 4096)
    losses, _ = task.gradients(flat, tuple(part.unsqueeze(0) for part in draw))
    return float(losses[0])


def train(task: Task, settings: AdaptiveBatchSize, seed: int) -> Run:
    """One run of ``EXAMPLES`` examples."""
    rate = best_rates(task.name)[task.start]
    run = Run(task, settings, RHO, rate, seed, every=20)
    while run.examples < EXAMPLES:
        run.rate = rate * 0.5 * (1 + math.cos(math.pi * run.examples / EXAMPLES))
        run.step()
    return run


def main() -> None:
    """Trains, prints and writes."""
    torch.set_num_threads(1)
    rows = [("task", "settings", "runs", "loss", "standard_error", "steps", "time")]
    for name in NAMES:
        for label, settings in SETTINGS.items():
            runs = [train(TASKS[name], settings(), seed) for seed in range(SEEDS)]
            losses = [validation_loss(TASKS[name], run.stepper.flat) for run in runs]
            error = statistics.stdev(losses) / SEEDS**0.5
            steps = statistics.fmean(run.steps for run in runs)
            time = statistics.fmean(run.time for run in runs)
            row = (name, label, SEEDS, statistics.fmean(losses), error, steps, time)
            rows.append((*row[:3], f"{row[3]:.5g}", f"{row[4]:.2g}", round(row[5]), round(row[6])))
            print(*rows[-1], flush=True)
            with FILE.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
