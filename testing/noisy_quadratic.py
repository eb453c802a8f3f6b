"""The noisy quadratic model as a Lightning module.

An optimizer step moves the expected squares as one step of SGD does.
"""

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from testing.quadratic import CURVATURE

# optimizer steps between two readings of the loss, which are what a step costs in Lightning
PER_BATCH = 64


def make_data(global_size, seed):
    return DataLoader(TensorDataset(torch.full((64, 1), global_size)), batch_size=1)


class ExpectedLoss(L.LightningModule):
    """E θ_i² for i = 1 … 1000 as the weights.

    Its loss is the expected loss before the steps of the batch.
    """

    def __init__(self, learning_rate):
        super().__init__()
        self.automatic_optimization = False
        self.rate = learning_rate
        self.curvature = torch.from_numpy(CURVATURE)
        self.squares = torch.nn.Parameter(torch.ones(len(CURVATURE), dtype=torch.float64))

    def training_step(self, batch, batch_idx):
        loss = self.curvature.dot(self.squares.detach()) / 2
        self.trainer.optimizers[0].global_size = int(batch[0])
        optimizer = self.optimizers()
        for _ in range(PER_BATCH):
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return Recursion([self.squares], self.rate, self.curvature)


class Recursion(torch.optim.Optimizer):
    """E θ² ← (1 − ε h)² E θ² + ε² c/B with c = h."""

    def __init__(self, parameters, rate, curvature):
        super().__init__(parameters, {"lr": rate})
        self.factor = (1 - rate * curvature) ** 2
        self.noise = rate**2 * curvature

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            closure()
        squares = self.param_groups[0]["params"][0]
        squares.mul_(self.factor).add_(self.noise, alpha=1 / self.global_size)


def make_module(parameters):
    return ExpectedLoss(**parameters)
