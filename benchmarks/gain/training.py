"""What runs to a goal of the training loss share: the smoothed loss, the optimizers, and stacks of
runs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gain.tasks import Batch, Task


class Smoothed:
    """The debiased exponential average of a loss, or of one per lane, over a window of examples."""

    def __init__(self, window: float) -> None:
        self.window, self._sum, self._weight = window, 0.0, 0.0

    def update(self, loss: float | Tensor, examples: int) -> float | Tensor:
        keep = math.exp(-examples / self.window)
        self._sum = keep * self._sum + (1 - keep) * loss
        self._weight = keep * self._weight + 1 - keep
        return self._sum / self._weight


class Stepper:
    """SGD with momentum 0.9 or Adam on flat parameters, a learning rate for each lane."""

    def __init__(self, kind: str, flat: Tensor) -> None:
        self.kind = kind
        self.flat = flat  # (lanes, numel)
        self._mean = torch.zeros_like(flat)
        self._square = torch.zeros_like(flat)
        self._count = 0

    def step(self, gradient: Tensor, rates: Tensor | float) -> None:
        """``rates`` is (lanes, 1) or a number."""
        if self.kind == "sgd":
            self._mean.mul_(0.9).add_(gradient)
            self.flat.sub_(self._mean * rates)
            return
        self._count += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.lerp_(gradient.square(), 0.001)
        mean = self._mean / (1 - 0.9**self._count)
        square = self._square / (1 - 0.999**self._count)
        self.flat.sub_(mean / (square.sqrt() + 1e-8) * rates)


class Lanes:
    """Runs of a task side by side; lanes are (rates x seeds), and every rate sees the same batches.

    Args:
        task: what is trained.
        rates: one per group of lanes.
        seeds: of the weights.
        draws_from: the seeds of the draws are those of the weights, this much higher.
    """

    def __init__(
        self, task: Task, rates: Sequence[float], seeds: Sequence[int], *, draws_from: int = 10_000
    ) -> None:
        self.task, self._rates = task, len(rates)
        self._draws = [torch.Generator().manual_seed(draws_from + seed) for seed in seeds]
        weights = torch.stack([task.initial(seed) for seed in seeds])
        self._stepper = Stepper(task.optimizer, weights.repeat(len(rates), 1))
        self._rate = torch.tensor(rates).repeat_interleave(len(seeds)).view(-1, 1)

    def step(self, size: int) -> Tensor:
        """One optimizer step of every run; their losses (lanes,)."""
        draws = [self.task.draw(generator, size) for generator in self._draws]
        losses, gradient = self.task.gradients(self._stepper.flat, stacked(draws, self._rates))
        self._stepper.step(gradient, self._rate)
        return losses


def stacked(batches: Sequence[Batch], rates: int) -> Batch:
    """The batches of all seeds, once for every rate."""
    parts = []
    for tensors in zip(*batches, strict=True):
        part = torch.stack(tensors)
        parts.append(part.repeat(rates, *[1] * (part.dim() - 1)))
    return tuple(parts)
