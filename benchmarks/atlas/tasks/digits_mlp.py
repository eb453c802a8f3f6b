"""An MLP with one hidden layer on scikit-learn's digits, with three optimizers."""

from functools import partial
from typing import Any

from torch import nn

from benchmarks.atlas.data import digits, loaders
from benchmarks.atlas.module import (
    Trained,
    adam,
    classification,
    loss_and_outputs,
    momentum,
    sgd,
)
from benchmarks.atlas.task import EARLY, LATE, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal, Search

CURVATURES = ("hessian", "gauss_newton")
GOALS = (
    Goal(metric="val_loss", target=1.0, name=EARLY),
    Goal(metric="val_loss", target=0.25, name=LATE),
)
GOALS_OF_ADAM = (  # a large batch is at 1.0 after five steps
    Goal(metric="val_loss", target=0.6, name=EARLY),
    Goal(metric="val_loss", target=0.18, name=LATE),
)
COMMON = {
    "further_goals": (Goal(metric="val_loss", target=0.4, name="middle"),),
    "validate_every": 100,
    "loss_and_outputs": loss_and_outputs,
    "paper": "MNIST",
}


def make_module(optimizer: Any, parameters: dict[str, float]) -> Trained:
    """64 inputs, 64 hidden units, 10 classes."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return Trained(net, classification, optimizer, **parameters)


def make_data(global_size: int, seed: int) -> Any:
    """``seed`` orders the training images."""
    return loaders(*digits(), global_size, seed)


TASKS = (
    Task(
        name="digits_mlp_sgd",
        title="digits, MLP, SGD",
        optimizer="SGD",
        make_module=partial(make_module, sgd),
        make_data=make_data,
        goals=GOALS,
        sizes=(2, 4, 8, 16, 32, 64, 128, 256),
        search_space={"learning_rate": CentredLearningRate(eps_max=1.0, b=32, spread=4)},
        budget=Budget(examples=30_000, steps=1_500),
        geometries=CURVATURES,
        **COMMON,
    ),
    Task(
        name="digits_mlp_momentum",
        title="digits, MLP, momentum",
        optimizer="momentum",
        make_module=partial(make_module, momentum),
        make_data=make_data,
        goals=GOALS,
        sizes=(8, 16, 32, 64, 128, 256, 512),
        search_space={"learning_rate": CentredLearningRate(eps_max=0.6, b=64, spread=4)},
        budget=Budget(examples=40_000, steps=1_000),
        geometries=CURVATURES,
        **COMMON,
    ),
    Task(
        name="digits_mlp_adam",
        title="digits, MLP, Adam",
        optimizer="Adam",
        make_module=partial(make_module, adam),
        make_data=make_data,
        goals=GOALS_OF_ADAM,
        search=Search(trials=8, seeds=8),
        sizes=(4, 8, 16, 32, 64, 128, 256, 512),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.05, b=64, alpha=0.5, spread=4)
        },
        budget=Budget(examples=40_000, steps=1_000),
        geometries=(*CURVATURES, "optimizer"),
        **COMMON,
    ),
)
