"""A small population of examples whose gradients, covariance and Hessian are known exactly, and
batches drawn from it.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F


class Truth(NamedTuple):
    """Of the population that batches are drawn from with replacement."""

    noise_scale: float
    b_noise: float
    signal: float
    noise: float
    hessian_grad_sq: float
    hessian_trace: float


class Population:
    """A three-layer MLP in fp64 on 48 examples of three classes."""

    def __init__(self, seed=0, scale=1.0):
        torch.manual_seed(seed)
        self.x, self.y = torch.randn(48, 3, dtype=torch.float64) * scale, torch.randint(3, (48,))
        self.module = nn.Sequential(
            nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
        ).double()

    @staticmethod
    def loss(module, batch):
        return F.cross_entropy(module(batch[0]), batch[1])

    def batches(self, size, seed=1):
        return Draws(self, size, seed)

    def truth(self, metric=None):
        names, parameters = zip(
            *((n, p.detach()) for n, p in self.module.named_parameters()), strict=True
        )
        sizes = [p.numel() for p in parameters]

        def losses(theta):
            parts = [t.view_as(p) for t, p in zip(theta.split(sizes), parameters, strict=True)]
            outputs = functional_call(self.module, dict(zip(names, parts, strict=True)), (self.x,))
            return F.cross_entropy(outputs, self.y, reduction="none")

        theta = torch.cat([p.reshape(-1) for p in parameters])
        g = torch.autograd.functional.jacobian(losses, theta)  # (examples, P)
        h = torch.autograd.functional.hessian(lambda t: losses(t).mean(), theta)
        mean = g.mean(0)
        sigma = (g - mean).T @ (g - mean) / len(g)
        diagonal = torch.ones_like(mean) if metric is None else metric
        grad_sq, trace = (mean * diagonal) @ mean, (diagonal * sigma.diagonal()).sum()
        curved, noise = mean @ h @ mean, (h * sigma).sum()
        values = (trace / grad_sq, noise / curved, grad_sq, trace, curved, noise)
        return Truth(*(float(v) for v in values))


class Draws:
    """Endless batches, the same ones at every iteration."""

    def __init__(self, population, size, seed):
        self.population, self.size, self.seed = population, size, seed

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            index = torch.randint(len(self.population.x), (self.size,), generator=generator)
            yield self.population.x[index], self.population.y[index]
