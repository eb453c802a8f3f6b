"""``AdaptiveBatchSize`` in a plain loop: the package's own averages and decisions, and a run to a
goal.
"""

import itertools
import math
import random
from collections.abc import Sequence

import torch

from benchmarks.gain.tasks import Task
from benchmarks.gain.training import Smoothed, Stepper
from lightning_noise import AdaptiveBatchSize
from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.core.moments import Moments
from lightning_noise.core.windows import Windows

EPOCH = 2048  # examples, where the data are fresh draws
GROUPS = 16
LOSSES = 25  # steps between two looks of the guard
SETTLE = 3  # steps after a change that are not timed
ALPHAS = {"sgd": 1.0, "adam": 0.5}


class Driven:
    """The decisions of ``AdaptiveBatchSize`` on one device, without accumulation.

    Args:
        settings: how the batch size adapts.
        start: batch size at the start.
        epoch_examples: that no step may exceed.
    """

    def __init__(
        self, settings: AdaptiveBatchSize, start: int, epoch_examples: float = math.inf
    ) -> None:
        self.machine = Adaptation(settings)
        self.windows = Windows(0.99)
        self._epoch, self._epoch_examples = 0, epoch_examples
        self.machine.begin_fit(Mark(0, 0.0), BatchPlan(start, 1, 1))
        self.machine.begin_epoch(0, epoch_examples)

    @property
    def size(self) -> int:
        """The current batch size."""
        sizes = self.machine.state.sizes
        assert sizes is not None
        return sizes.current.global_size

    def decide(
        self,
        durations: Sequence[float],
        steps: int,
        examples: float,
        data_size: float | None = None,
        alpha: float = 1.0,
    ) -> None:
        """One decision, from the durations of steps since the last one."""
        self.machine.timed(durations)
        estimate = self.windows.estimate(0.99)
        noise_scale = self.windows.estimate(0.95).noise_scale
        measured = Measurement(estimate, self.size, steps, examples, data_size, noise_scale)
        self.machine.end_epoch(measured, Limits(alpha=alpha))
        self._epoch += 1
        self.machine.begin_epoch(self._epoch, self._epoch_examples)


class Run(Driven):
    """One run of a task.

    Args:
        task: what is trained.
        settings: how the batch size adapts.
        rho: fixed time of a step, in examples.
        rate: learning rate at the start.
        seed: of weights and draws.
        every: optimizer steps between two decisions; ``None``: between epochs.
        ageing: averages decay by steps; with 1 by examples.
    """

    def __init__(
        self,
        task: Task,
        settings: AdaptiveBatchSize,
        rho: float,
        rate: float,
        seed: int,
        *,
        every: int | None = 20,
        ageing: float = 0.0,
    ) -> None:
        super().__init__(settings, task.start)
        self.task = task
        self.rho = rho
        self.rate = rate
        self.every = every
        self.ageing = ageing
        self.stepper = Stepper(task.optimizer, task.initial(seed).unsqueeze(0))
        self.draws = torch.Generator().manual_seed(10_000 + seed)
        self.jitter = random.Random(seed)
        self.steps = 0
        self.examples = 0
        self.time = 0.0
        self._durations: list[float] = []
        self._losses: list[float] = []
        self._since_change = 0
        self._sizes: list[int] = []

    @property
    def jumps(self) -> int:
        """Of the loss, that the guard has seen."""
        return self.machine.state.guard.jumps

    def to_goal(self) -> bool:
        """Trains until the smoothed training loss reaches the goal; whether it does."""
        smoothed = Smoothed(self.task.window)
        while self.examples < self.task.most_examples:
            size = self.size
            loss = smoothed.update(self.step(), size)
            if not math.isfinite(loss):
                return False
            if self.examples >= self.task.window and loss <= self.task.goal:
                return True
        return False

    def step(self) -> float:
        """One optimizer step, and the decision after it where one is due; the loss."""
        size = self.size
        before = self.examples // self._examples_of_epoch
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
        after = self.examples // self._examples_of_epoch
        is_due = after > before
        if self.every is not None:
            is_due = self.steps % self.every == 0
        if is_due:
            self._decide()
        return loss

    @property
    def _examples_of_epoch(self) -> float:
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
        before = self.size
        data_size = None
        if self.examples > self.task.data_size:
            data_size = self.task.data_size
        alpha = ALPHAS[self.task.optimizer]
        self.decide(self._durations, self.steps, self.examples, data_size, alpha)
        self._durations = []
        if self.size != before:
            self._since_change = 0

    @property
    def path(self) -> str:
        """Sizes and steps of every stretch, ``16x200 32x80``."""
        parts = []
        for size, together in itertools.groupby(self._sizes):
            parts.append(f"{size}x{len(list(together))}")
        return " ".join(parts)
