"""Steps to the goal at fixed batch sizes, each at its own tuned learning rate.

    OMP_NUM_THREADS=1 python -m benchmarks.gain.sweep --task "digits CNN"

At each size learning rates on a grid (factor 2^½) are tried with tuning seeds, all in one stack of
weights; the grid is extended until the best rate has worse neighbours on both sides. The figures
are from five other seeds at the best rate. Rows go to ``results/sweep.csv``, and what is there is
not run again.
"""

import argparse
import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gain.tasks import TASKS, Batch, Stepper, Task

FILE = Path(__file__).parent / "results" / "sweep.csv"
GRID = 2**0.5
TUNING_SEEDS = {"sgd": (100, 101, 102), "adam": (100, 101)}
SEEDS = (0, 1, 2, 3, 4)


class Row(NamedTuple):
    """One run at a fixed size; ``steps`` is infinite where the goal was not reached."""

    task: str
    kind: str
    size: int
    rate: float
    seed: int
    steps: float


def read() -> list[Row]:
    """The rows so far."""
    if not FILE.exists():
        return []
    with FILE.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    return [
        Row(task, kind, int(size), float(rate), int(seed), float(steps))
        for task, kind, size, rate, seed, steps in lines
    ]


def append(rows: list[Row]) -> None:
    """Adds rows to the file."""
    FILE.parent.mkdir(exist_ok=True)
    is_new = not FILE.exists()
    with FILE.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(Row._fields)
        for row in rows:
            writer.writerow([*row[:3], f"{row.rate:.6g}", row.seed, row.steps])


def lanes_of(batches: list[Batch], rates: int) -> Batch:
    """Seeds are stacked, and every rate sees the same batches; lanes are (rates x seeds)."""
    parts = []
    for tensors in zip(*batches, strict=True):
        stacked = torch.stack(tensors)
        repeated = stacked.unsqueeze(0).expand(rates, *stacked.shape)
        parts.append(repeated.reshape(-1, *stacked.shape[1:]))
    return tuple(parts)


def steps_to_goal(
    task: Task, size: int, rates: list[float], seeds: tuple[int, ...], *, all_lanes: bool = False
) -> torch.Tensor:
    """Steps (rates, seeds) to the goal; infinite for lanes that cannot be the best any more.

    Args:
        task: what is trained.
        size: batch size.
        rates: one per group of lanes.
        seeds: of weights and draws, the same for each rate.
        all_lanes: waits for every lane, up to ``most_examples``.
    """
    generators = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    weights = torch.stack([task.initial(seed) for seed in seeds])
    stepper = Stepper(task.optimizer, weights.repeat(len(rates), 1))
    rate = torch.tensor(rates).repeat_interleave(len(seeds)).view(-1, 1)
    decay = math.exp(-size / task.window)
    loss_sum = torch.zeros(len(rate))
    weight = 0.0
    reached = torch.full((len(rate),), math.inf)
    for step in range(1, task.most_examples // size + 1):
        batch = lanes_of([task.draw(generator, size) for generator in generators], len(rates))
        losses, gradient = task.gradients(stepper.flat, batch)
        stepper.step(gradient, rate)
        loss_sum = decay * loss_sum + (1 - decay) * losses
        weight = decay * weight + 1 - decay
        if step * size < task.window:
            continue
        newly = (loss_sum / weight <= task.goal) & reached.isinf()
        reached[newly] = step
        if step % 20 == 0 and _is_over(reached, step, len(rates), all_lanes=all_lanes):
            break
    return reached.view(len(rates), -1)


def _is_over(reached: torch.Tensor, step: int, rates: int, *, all_lanes: bool) -> bool:
    if all_lanes:
        return bool(reached.isfinite().all())
    so_far = reached.clamp(max=step).view(rates, -1).mean(1)
    complete = reached.view(rates, -1).isfinite().all(1)
    if not complete.any():
        return False
    return bool((so_far[~complete] > so_far[complete].min()).all())


def tune(task: Task, size: int, centre: float) -> float:
    """The best rate at a size; what was tried is in the file."""
    seeds = TUNING_SEEDS[task.optimizer]
    low, high = -3, 3
    if task.optimizer == "adam":
        low, high = -2, 2
    scores: dict[int, float] = {}
    todo = list(range(low, high + 1))
    while todo:
        rates = [centre * GRID**index for index in todo]
        reached = steps_to_goal(task, size, rates, seeds)
        rows = []
        for index, rate, of_seeds in zip(todo, rates, reached.tolist(), strict=True):
            scores[index] = math.fsum(of_seeds) / len(seeds)
            for seed, steps in zip(seeds, of_seeds, strict=True):
                rows.append(Row(task.name, "tuning", size, rate, seed, steps))
        append(rows)
        best = min(scores, key=lambda index: scores[index])
        todo = []
        if best == min(scores):
            todo = [best - 2, best - 1]
        elif best == max(scores):
            todo = [best + 1, best + 2]
        if len(scores) > 20:
            break
    return centre * GRID**best


def best_rates(task: str) -> dict[int, float]:
    """The tuned rate of every size that has its final rows."""
    found = {}
    for row in read():
        if row.task == task and row.kind == "fixed":
            found[row.size] = row.rate
    return found


def sweep(task: Task) -> None:
    """Tunes and runs every size."""
    centre = task.rate
    for size in task.sizes:
        done = best_rates(task.name)
        if size in done:
            centre = done[size] * GRID
            continue
        best = tune(task, size, centre)
        steps = steps_to_goal(task, size, [best], SEEDS, all_lanes=True)[0].tolist()
        rows = []
        for seed, count in zip(SEEDS, steps, strict=True):
            rows.append(Row(task.name, "fixed", size, best, seed, count))
        append(rows)
        print(task.name, size, f"rate {best:.4g}", steps, flush=True)
        centre = best * GRID


def main() -> None:
    """Runs the sweep of one task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweep(TASKS[arguments.task])


if __name__ == "__main__":
    main()
