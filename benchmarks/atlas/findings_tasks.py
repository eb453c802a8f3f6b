"""The MLP on digits that the findings of the atlas are measured on, at any width."""

from functools import cache

import torch

from benchmarks.gain.tasks import TASKS, Batch, Task, mlp
from benchmarks.harness.digits import digits


@cache
def flat_digits() -> Batch:
    """All images (1797, 64) and labels (1797,)."""
    images, labels = digits()
    return images.flatten(1), labels


def draw_flat_digits(generator: torch.Generator, examples: int) -> Batch:
    """Images and labels, drawn with replacement."""
    images, labels = flat_digits()
    index = torch.randint(len(labels), (examples,), generator=generator)
    return images[index], labels[index]


def digits_mlp(width: int = 64) -> Task:
    """64 inputs, ``width`` hidden units, 10 classes."""
    return Task(
        name="digits MLP",
        optimizer="sgd",
        shapes=((64, width), (width,), (width, 10), (10,)),
        draw=draw_flat_digits,
        loss=mlp,
        goal=0.25,
        data_size=1797,
    )


def fixed_draw(name: str, examples: int = 1024) -> Batch:
    """Fixed examples of one of the tasks of ``benchmarks.gain.tasks``."""
    return TASKS[name].draw(torch.Generator().manual_seed(5), examples)


def split_flat_digits(trained: int) -> tuple[Batch, Batch]:
    """Digits to train on, and all others."""
    images, labels = flat_digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    first, rest = order[:trained], order[trained:]
    return (images[first], labels[first]), (images[rest], labels[rest])


def drawn_from(data: Batch, generator: torch.Generator, examples: int) -> Batch:
    """Examples of some data, drawn with replacement."""
    index = torch.randint(len(data[0]), (examples,), generator=generator)
    return tuple(part[index] for part in data)
