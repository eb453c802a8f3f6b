"""A CNN on MNIST, CIFAR-10 and SVHN, where the environment variable ATLAS_DATA names a folder that
has them (as torchvision stores them).

The page of the atlas has no rows of these tasks: they need files that are not at hand everywhere.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.atlas.data import loaders
from benchmarks.atlas.module import Trained, classification, loss_and_outputs, momentum
from benchmarks.atlas.task import EARLY, LATE, LEAN, Task
from benchmarks.atlas.user_data import available, datasets
from lightning_noise.study import Budget, CentredLearningRate, Goal

FOLDER = "ATLAS_DATA"
TARGETS = {"MNIST": (0.5, 0.1), "SVHN": (1.5, 0.6), "CIFAR10": (1.6, 1.0)}  # early, late


def make_module(name: str, parameters: dict[str, float]) -> Trained:
    """Three convolutions and a linear layer."""
    channels = 1 if name == "MNIST" else 3
    net = nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return Trained(net, classification, momentum, **parameters)


def make_data(name: str, folder: Path, global_size: int, seed: int) -> Any:
    """``seed`` orders the training images."""
    return loaders(*datasets(name, folder), global_size, seed)


def tasks_in(folder: Path) -> Iterator[Task]:
    """The tasks whose data a folder has."""
    for name in available(folder):
        early, late = TARGETS[name]
        yield Task(
            name=f"{name.lower()}_cnn_momentum",
            title=f"{name}, CNN, momentum",
            optimizer="momentum",
            make_module=partial(make_module, name),
            make_data=partial(make_data, name, folder),
            goals=(Goal(metric="val_loss", target=late, name=LATE),),
            further_goals=(Goal(metric="val_loss", target=early, name=EARLY),),
            sizes=(16, 32, 64, 128, 256, 512, 1024, 2048),
            search_space={"learning_rate": CentredLearningRate(eps_max=0.3, b=256, spread=4)},
            budget=Budget(examples=2_000_000, steps=4_000),
            validate_every=4_096,
            search=LEAN,
            geometries=("gauss_newton",),
            loss_and_outputs=loss_and_outputs,
            paper=name,
        )


def _found() -> tuple[Task, ...]:
    folder = os.environ.get(FOLDER)
    if not folder:
        return ()
    return tuple(tasks_in(Path(folder)))


TASKS = _found()
