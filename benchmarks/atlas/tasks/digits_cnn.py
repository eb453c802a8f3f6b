"""A small CNN on scikit-learn's digits, with momentum and with Adam."""

from functools import partial
from typing import Any

from torch import nn

from benchmarks.atlas.data import digits, loaders
from benchmarks.atlas.module import Trained, adam, classification, loss_and_outputs, momentum
from benchmarks.atlas.task import EARLY, LATE, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal, Search

CURVATURES = ("hessian", "gauss_newton")
COMMON = {
    "goals": (Goal(metric="val_loss", target=0.3, name=LATE),),
    "further_goals": (
        Goal(metric="val_loss", target=1.0, name=EARLY),
        Goal(metric="val_loss", target=0.6, name="middle"),
    ),
    "search": Search(trials=8, seeds=8),
    "validate_every": 200,
    "loss_and_outputs": loss_and_outputs,
    "paper": "MNIST",
}


def make_module(optimizer: Any, parameters: dict[str, float]) -> Trained:
    """Two convolutions and a linear layer."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return Trained(net, classification, optimizer, **parameters)


def make_data(global_size: int, seed: int) -> Any:
    """``seed`` orders the training images."""
    return loaders(*digits(), global_size, seed)


TASKS = (
    Task(
        name="digits_cnn_momentum",
        title="digits, CNN, momentum",
        optimizer="momentum",
        make_module=partial(make_module, momentum),
        make_data=make_data,
        sizes=(4, 8, 16, 32, 64, 128, 256, 512),
        search_space={"learning_rate": CentredLearningRate(eps_max=0.17, b=64, spread=3)},
        budget=Budget(examples=100_000, steps=1_500),
        geometries=CURVATURES,
        **COMMON,
    ),
    Task(
        name="digits_cnn_adam",
        title="digits, CNN, Adam",
        optimizer="Adam",
        make_module=partial(make_module, adam),
        make_data=make_data,
        sizes=(4, 8, 16, 32, 64, 128, 256, 512),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.03, b=64, alpha=0.5, spread=3)
        },
        budget=Budget(examples=100_000, steps=1_500),
        geometries=(*CURVATURES, "optimizer"),
        **COMMON,
    ),
)
