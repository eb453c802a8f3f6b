"""A small ResNet with GroupNorm on scikit-learn's digits, with momentum."""

from typing import Any

from torch import Tensor, nn

from benchmarks.atlas.data import digits, loaders
from benchmarks.atlas.module import Trained, classification, loss_and_outputs, momentum
from benchmarks.atlas.task import EARLY, LATE, LEAN, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal

WIDTH = 8


class Block(nn.Module):
    """Two convolutions, each after GroupNorm and ReLU, beside a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.GroupNorm(2, WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GroupNorm(2, WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def make_module(parameters: dict[str, float]) -> Trained:
    """A convolution, two blocks, and a linear layer on 4 × 4 means."""
    net = nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1),
        Block(),
        nn.AvgPool2d(2),
        Block(),
        nn.Flatten(),
        nn.Linear(16 * WIDTH, 10),
    )
    return Trained(net, classification, momentum, **parameters)


def make_data(global_size: int, seed: int) -> Any:
    """``seed`` orders the training images."""
    return loaders(*digits(), global_size, seed)


TASKS = (
    Task(
        name="digits_resnet_momentum",
        title="digits, ResNet, momentum",
        optimizer="momentum",
        make_module=make_module,
        make_data=make_data,
        goals=(Goal(metric="val_loss", target=0.15, name=LATE),),
        further_goals=(
            Goal(metric="val_loss", target=0.6, name=EARLY),
            Goal(metric="val_loss", target=0.3, name="middle"),
        ),
        sizes=(8, 16, 32, 64, 128, 512),
        search_space={"learning_rate": CentredLearningRate(eps_max=0.12, b=64, spread=3)},
        budget=Budget(examples=60_000, steps=1_000),
        search=LEAN,
        validate_every=200,
        geometries=("hessian", "gauss_newton"),
        loss_and_outputs=loss_and_outputs,
        every_n_steps=2,
        paper="MNIST",
    ),
)
