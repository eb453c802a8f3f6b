"""A module in fp64 and its data, so that runs with and without a split differ by rounding alone."""

import torch
from torch.utils.data import DataLoader

from testing.toys import Regression, data


class Exact(Regression):
    """Keeps the length of every batch that it trains on."""

    def __init__(self, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)):
        super().__init__(optimizer)
        self.double()
        self.sizes = []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[0]))
        return super().training_step(batch, batch_idx)


def exact_data(examples=64, local_size=8, **arguments):
    source = data(examples=examples, dtype=torch.float64)
    return DataLoader(source.dataset, batch_size=local_size, **arguments)


def parameters(module):
    """All of them in one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])
