"""A noisy quadratic whose steps at every batch size are known in closed form.

Loss ½ Σ h_i θ_i² with curvatures h_i spaced evenly in the logarithm between 1/100 and 1, gradients
of examples with noise of variance h_i, and θ_i = 1 at the start (``testing/quadratic.py``).
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.atlas.task import EARLY, LATE, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal

DIMENSIONS = 256
CURVATURE = torch.logspace(-2, 0, DIMENSIONS)
EXAMPLES = 100_000
SHARES = {EARLY: 0.03, LATE: 0.01}  # of the first loss


class NoisyQuadratic(L.LightningModule):
    """Plain SGD; logs the loss without noise, as a share of the first one."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.theta = nn.Parameter(torch.ones(DIMENSIONS))
        self.curvature = CURVATURE

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        exact = self.curvature.dot(self.theta.square()) / 2
        self.log("share", exact.detach() / (self.curvature.sum() / 2))
        size = len(batch[0])
        noise = torch.randn(DIMENSIONS) * (self.curvature / size).sqrt()  # mean over the batch
        return exact + noise.dot(self.theta)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def make_module(parameters: dict[str, float]) -> NoisyQuadratic:
    """There is nothing to choose but the rate."""
    return NoisyQuadratic(**parameters)


def make_data(global_size: int, seed: int) -> DataLoader[Any]:
    """Batches of numbers: an example is the noise of its gradient, which the module draws."""
    numbers = TensorDataset(torch.arange(EXAMPLES))
    order = RandomSampler(numbers, generator=torch.Generator().manual_seed(seed))
    return DataLoader(
        numbers, sampler=BatchSampler(order, global_size, drop_last=True), batch_size=None
    )


TASKS = (
    Task(
        name="quadratic",
        title="noisy quadratic, SGD",
        optimizer="SGD",
        make_module=make_module,
        make_data=make_data,
        goals=tuple(
            Goal(metric="share", target=share, on="train", name=name)
            for name, share in SHARES.items()
        ),
        sizes=(16, 32, 64, 128, 256, 512, 1024, 2048),
        search_space={"learning_rate": CentredLearningRate(eps_max=1.7, b=200, spread=2.5)},
        budget=Budget(steps=1_500),
        geometries=("hessian",),
    ),
)
