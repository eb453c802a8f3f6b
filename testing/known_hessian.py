"""A module whose Hessian is known, which keeps its weights, and draws from its population."""

import lightning as L
import torch
from torch.utils.data import Dataset

from testing.exact import Population


class Endless(Dataset):
    """Draws with replacement from the population, the same at every run."""

    def __init__(self, population, examples):
        index = torch.randint(48, (examples,), generator=torch.Generator().manual_seed(5))
        self.x, self.y = population.x[index], population.y[index]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        return self.x[at], self.y[at]


class Still(L.LightningModule):
    """The three-layer MLP whose Hessian is known, with a rate of 0."""

    def __init__(self, optimizer=torch.optim.SGD, lr=0.0):
        super().__init__()
        self.population = Population()
        self.net = self.population.module
        self.optimizer, self.lr, self.steps = optimizer, lr, 0

    def loss(self, batch):
        return self.population.loss(self.net, batch)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.loss(batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=self.lr)
