"""An autoencoder and a variational autoencoder on patches of two photographs."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.atlas.data import loaders, patches
from benchmarks.atlas.module import (
    Batch,
    Trained,
    adam,
    loss_and_outputs,
    momentum,
    reconstruction,
)
from benchmarks.atlas.task import EARLY, LATE, LEAN, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal, Search

PIXELS, HIDDEN, CODE = 64, 64, 8
NOISE = 0.3  # deviation of a pixel given the code, in units of the deviation of all pixels


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))


def make_autoencoder(optimizer: Any, parameters: dict[str, float]) -> Trained:
    """64 → 64 → 8 → 64 → 64."""
    net = nn.Sequential(perceptron(PIXELS, CODE), perceptron(CODE, PIXELS))
    return Trained(net, reconstruction, optimizer, **parameters)


class Variational(nn.Module):
    """An encoder to means and logarithms of variances, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = perceptron(PIXELS, 2 * CODE)
        self.decoder = perceptron(CODE, PIXELS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(reconstruction, means, logarithms of variances)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decoder(code), mean, log_variance


def negative_bound(net: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Minus the evidence lower bound in nats per pixel, up to a constant; and the outputs."""
    found, mean, log_variance = net(batch[0])
    likelihood = (found - batch[0]).square().sum(-1) / (2 * NOISE**2)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return (likelihood + divergence).mean() / PIXELS, (found, mean, log_variance)


def make_variational(parameters: dict[str, float]) -> Trained:
    """The same layers as the autoencoder."""
    return Trained(Variational(), negative_bound, adam, **parameters)


def make_data(global_size: int, seed: int) -> Any:
    """``seed`` orders the patches."""
    return loaders(*patches(), global_size, seed)


# With momentum and small batches most rates in the range never reach the late goal, because it lies
# below their noise floor. So that study has more trials than the others.
TASKS = (
    Task(
        name="patches_ae_momentum",
        title="patches, autoencoder, momentum",
        optimizer="momentum",
        make_module=partial(make_autoencoder, momentum),
        make_data=make_data,
        goals=(Goal(metric="val_loss", target=0.9, name=LATE),),
        further_goals=(Goal(metric="val_loss", target=1.1, name=EARLY),),
        search=Search(trials=16, seeds=6),
        sizes=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        search_space={"learning_rate": CentredLearningRate(eps_max=0.8, b=100, spread=3)},
        budget=Budget(examples=800_000, steps=2_000),
        validate_every=200,
        geometries=("hessian", "gauss_newton"),
        loss_and_outputs=loss_and_outputs,
        paper="Autoencoder SVHN",
    ),
    Task(
        name="patches_ae_adam",
        title="patches, autoencoder, Adam",
        optimizer="Adam",
        make_module=partial(make_autoencoder, adam),
        make_data=make_data,
        goals=(Goal(metric="val_loss", target=0.9, name=LATE),),
        further_goals=(Goal(metric="val_loss", target=1.1, name=EARLY),),
        search=LEAN,
        sizes=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.015, b=64, alpha=0.5, spread=3)
        },
        budget=Budget(examples=400_000, steps=2_000),
        validate_every=200,
        geometries=("hessian", "gauss_newton", "optimizer"),
        loss_and_outputs=loss_and_outputs,
        paper="Autoencoder SVHN",
    ),
    Task(
        name="patches_vae_adam",
        title="patches, variational autoencoder, Adam",
        optimizer="Adam",
        make_module=make_variational,
        make_data=make_data,
        goals=(Goal(metric="val_loss", target=5.5, name=LATE),),
        further_goals=(Goal(metric="val_loss", target=6.5, name=EARLY),),
        search=Search(trials=8, seeds=3, widen=1),
        sizes=(16, 64, 256, 512, 1024, 2048),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.025, b=200, alpha=0.5, spread=3)
        },
        budget=Budget(examples=400_000, steps=2_000),
        validate_every=200,
        geometries=("hessian", "optimizer"),
        paper="VAE SVHN",
    ),
)
