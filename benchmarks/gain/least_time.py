"""Time to a goal with an adaptive batch size that starts too small, beside fixed sizes.

    OMP_NUM_THREADS=1 python -m benchmarks.gain.least_time --task patches --rho 64 1024

A step of B examples takes ``rho + B`` units of time; the policy is not told so, it is given the
duration of each step, with a jitter of 3 %. The runs are plain loops that drive the package's own
``Windows`` and ``Adaptation``: the estimate is from the norms of up to 16 groups of each batch,
decisions are taken every 20 steps or between epochs of 2048 examples. Rows go to
``results/least_time.csv``, and what is there is not run again.
"""

import argparse
import csv
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gain.sweep import SEEDS, best_rates
from benchmarks.gain.tasks import TASKS, Stepper, Task
from lightning_noise import AdaptiveBatchSize, TrackNoiseScale
from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.least_time import LeastTime
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Moments
from lightning_noise.core.windows import Windows

FILE = Path(__file__).parent / "results" / "least_time.csv"
RHOS = (16, 64, 256, 1024)
EPOCH = 2048  # examples, where the data are fresh draws
GROUPS = 16
LOSSES = 25  # steps between two looks of the guard
SETTLE = 3  # steps after a change that are not timed


def quarter(old: float, new: float, _: NoiseEstimate) -> float:
    """The fourth root of the ratio of the sizes."""
    return (new / old) ** 0.25


VARIANTS: dict[str, Callable[[], AdaptiveBatchSize]] = {
    "optimal": lambda: AdaptiveBatchSize(LeastTime(), learning_rate="optimal"),
    "middle": lambda: AdaptiveBatchSize(LeastTime(), learning_rate="middle"),
    "sqrt": lambda: AdaptiveBatchSize(LeastTime(), learning_rate="sqrt"),
    "linear": lambda: AdaptiveBatchSize(LeastTime(), learning_rate="linear"),
    "quarter": lambda: AdaptiveBatchSize(LeastTime(), learning_rate=quarter),
    "none": lambda: AdaptiveBatchSize(LeastTime(), learning_rate=None),
    "default": lambda: AdaptiveBatchSize(),
    "no guard": lambda: AdaptiveBatchSize(guard=False),
    "tracking": lambda: AdaptiveBatchSize(TrackNoiseScale(), learning_rate="optimal"),
}


class Row(NamedTuple):
    """One adaptive run; ``time`` is infinite where the goal was not reached.

    ``path`` has the size and the steps of every stretch, ``16x200 32x80``.
    """

    task: str
    variant: str
    every: str
    rho: int
    rate: float
    seed: int
    time: float
    steps: int
    examples: int
    jumps: int
    path: str


def read() -> list[Row]:
    """The rows so far."""
    if not FILE.exists():
        return []
    with FILE.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    rows = []
    for task, variant, every, rho, rate, seed, time, steps, examples, jumps, path in lines:
        numbers = (int(rho), float(rate), int(seed), float(time))
        rows.append(
            Row(task, variant, every, *numbers, int(steps), int(examples), int(jumps), path)
        )
    return rows


def append(row: Row) -> None:
    """Adds a row to the file."""
    FILE.parent.mkdir(exist_ok=True)
    is_new = not FILE.exists()
    with FILE.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(Row._fields)
        writer.writerow(row._replace(rate=float(f"{row.rate:.6g}"), time=round(row.time, 1)))


class Run:
    """One run to the goal.

    Args:
        task: what is trained.
        settings: how the batch size adapts.
        rho: fixed time of a step, in examples.
        rate: learning rate at the start.
        seed: of weights and draws.
        every: optimizer steps between two decisions; ``None``: between epochs.
    """

    def __init__(
        self,
        task: Task,
        settings: AdaptiveBatchSize,
        rho: float,
        rate: float,
        seed: int,
        every: int | None,
    ) -> None:
        self.task = task
        self.rho = rho
        self.rate = rate
        self.every = every
        self.ageing = 0.0  # averages decay by steps; with 1 by examples
        self.confidence = 0.99
        self.machine = Adaptation(settings)
        self.machine.begin_fit(Mark(0, 0.0), BatchPlan(task.start, 1, 1))
        self.machine.begin_epoch(0, math.inf)
        self.windows = Windows(0.99)
        self.stepper = Stepper(task.optimizer, task.initial(seed).unsqueeze(0))
        self.draws = torch.Generator().manual_seed(10_000 + seed)
        self.jitter = random.Random(seed)
        self.alpha = 1.0 if task.optimizer == "sgd" else 0.5
        self.steps = 0
        self.examples = 0
        self.time = 0.0
        self.epoch = 0
        self._durations: list[float] = []
        self._losses: list[float] = []
        self._since_change = 0
        self._sizes: list[int] = []

    @property
    def size(self) -> int:
        """The current batch size."""
        sizes = self.machine.state.sizes
        assert sizes is not None
        return sizes.current.global_size

    def to_goal(self) -> bool:
        """Trains until the smoothed training loss reaches the goal; whether it does."""
        loss_sum = weight = 0.0
        most = self.task.most_examples
        while self.examples < most:
            size = self.size
            loss = self.step()
            decay = math.exp(-size / self.task.window)
            loss_sum = decay * loss_sum + (1 - decay) * loss
            weight = decay * weight + 1 - decay
            if not math.isfinite(loss_sum):
                return False
            if self.examples >= self.task.window and loss_sum / weight <= self.task.goal:
                return True
        return False

    def step(self) -> float:
        """One optimizer step, and the decision after it where one is due; the loss."""
        size = self.size
        before = self.examples // self._epoch_examples
        loss = self._train(size)
        self.steps += 1
        self.examples += size
        duration = (self.rho + size) * (1 + 0.03 * self.jitter.random())
        self.time += self.rho + size
        self._since_change += 1
        if self._since_change > SETTLE:
            self._durations.append(duration)
        self._sizes.append(size)
        self._losses.append(loss)
        if len(self._losses) == LOSSES:
            self.machine.losses(self._losses)
            self._losses = []
        after = self.examples // self._epoch_examples
        is_due = after > before
        if self.every is not None:
            is_due = self.steps % self.every == 0
        if is_due:
            self._decide()
        return loss

    @property
    def _epoch_examples(self) -> float:
        return min(self.task.data_size, EPOCH)

    def _train(self, size: int) -> float:
        groups = min(size, GROUPS)
        batch = []
        for part in self.task.draw(self.draws, size):
            batch.append(part.view(groups, size // groups, *part.shape[1:]))
        flat = self.stepper.flat.expand(groups, -1)
        losses, gradients = self.task.gradients(flat, tuple(batch))
        gradient = gradients.mean(0, keepdim=True)
        norms = torch.stack([gradients.square().sum() / groups, gradient.square().sum()])
        q_small, q_big = norms.tolist()
        if math.isfinite(q_small):
            moments = Moments(q_small, q_big, groups / size, 1 / size)
            self.windows.update(moments, age=(size / self.task.start) ** self.ageing)
        self.stepper.step(gradient, self.rate * self.machine.rate_factor)
        return float(losses.mean())

    def _decide(self) -> None:
        self.machine.timed(self._durations)
        self._durations = []
        before = self.size
        estimate = self.windows.estimate(self.confidence)
        data_size = None
        if self.examples > self.task.data_size:
            data_size = self.task.data_size
        noise_scale = self.windows.estimate(0.95).noise_scale
        measured = Measurement(estimate, before, self.steps, self.examples, data_size, noise_scale)
        self.machine.end_epoch(measured, Limits(alpha=self.alpha))
        self.epoch += 1
        self.machine.begin_epoch(self.epoch, math.inf)
        if self.size != before:
            self._since_change = 0

    @property
    def path(self) -> str:
        """Sizes and steps."""
        parts = []
        for size, together in itertools.groupby(self._sizes):
            parts.append(f"{size}x{len(list(together))}")
        return " ".join(parts)


def main() -> None:
    """Runs what is not yet in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), nargs="+", required=True)
    parser.add_argument("--variant", choices=list(VARIANTS), nargs="+", default=["default"])
    parser.add_argument("--every", nargs="+", default=["20"], help="steps, or epoch")
    parser.add_argument("--rho", type=int, nargs="+", default=RHOS)
    parser.add_argument("--of-tuned", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = {row[:6] for row in read()}
    cases = itertools.product(
        given.task, given.variant, given.every, given.rho, given.of_tuned, given.seeds
    )
    for name, variant, every, rho, share, seed in cases:
        task = TASKS[name]
        rate = float(f"{best_rates(name)[task.start] * share:.6g}")
        if (name, variant, every, rho, rate, seed) in done:
            continue
        steps_between = None if every == "epoch" else int(every)
        run = Run(task, VARIANTS[variant](), rho, rate, seed, steps_between)
        reached = run.to_goal()
        time = run.time if reached else math.inf
        jumps = run.machine.state.guard.jumps
        row = Row(
            name,
            variant,
            every,
            rho,
            rate,
            seed,
            time,
            run.steps,
            run.examples,
            jumps,
            run.path,
        )
        append(row)
        print(*row[1:10], run.path[:200], flush=True)


if __name__ == "__main__":
    main()
