"""How often does the guard fire on healthy runs? Fixed sizes at their tuned rates.

    OMP_NUM_THREADS=1 python -m benchmarks.gain.guard_rate

Every run has 3000 steps and does not diverge; each jump that the guard sees is a false alarm.
Writes ``results/guard_rate.csv``.
"""

import csv
import math
from pathlib import Path

import torch

from benchmarks.gain.sweep import best_rates
from benchmarks.gain.tasks import TASKS, Stepper
from lightning_noise.adapt.guard import Guard

FILE = Path(__file__).parent / "results" / "guard_rate.csv"
STEPS = 3000
SEEDS = 4
SIZES = (4, 16, 64)


def losses(name: str, size: int) -> torch.Tensor:
    """Losses (steps, seeds) of a task."""
    task = TASKS[name]
    generators = [torch.Generator().manual_seed(20_000 + seed) for seed in range(SEEDS)]
    weights = torch.stack([task.initial(seed) for seed in range(SEEDS)])
    stepper = Stepper(task.optimizer, weights)
    rate = best_rates(name)[size]
    found = []
    for _ in range(STEPS):
        draws = [task.draw(generator, size) for generator in generators]
        batch = tuple(torch.stack(parts) for parts in zip(*draws, strict=True))
        values, gradient = task.gradients(stepper.flat, batch)
        stepper.step(gradient, rate)
        found.append(values)
    return torch.stack(found)


def main() -> None:
    """Counts, prints and writes."""
    torch.set_num_threads(1)
    rows = [("task", "size", "runs", "steps", "false_alarms")]
    for name in TASKS:
        for size in SIZES:
            found = losses(name, size)
            jumps = 0
            for run in found.T.tolist():
                assert all(map(math.isfinite, run))
                jumps += Guard().after(run, 4.0).jumps
            rows.append((name, size, SEEDS, SEEDS * STEPS, jumps))
            print(*rows[-1], flush=True)
    with FILE.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
