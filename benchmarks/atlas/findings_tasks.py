"""The MLP on digits that the findings of the atlas are measured on, at any width and depth."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.gain.tasks import TASKS, Batch, Task, cross_entropy, linear
from benchmarks.harness.digits import digits

INPUTS, CLASSES = 64, 10


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


class Mlp(Task):
    """An MLP with ReLU.

    Matrices between hidden layers start √2 times as large as ``Task`` has them (He et al. 2015):
    otherwise every further layer would halve the squares of what passes through it.
    """

    def initial(self, seed: int) -> Tensor:
        """Flat parameters (numel,)."""
        flat = super().initial(seed)
        between_hidden = self.split(flat[None])[2:-2:2]
        for weight in between_hidden:
            weight.mul_(2**0.5)
        return flat


def logits_of(p: Sequence[Tensor], images: Tensor) -> Tensor:
    """Of an MLP with parameters ``p``, weights and biases by turns: (lanes, examples, classes)."""
    hidden = linear(images, p[0], p[1])
    for weight, bias in zip(p[2::2], p[3::2], strict=True):
        hidden = linear(hidden.relu(), weight, bias)
    return hidden


def mlp_loss(p: list[Tensor], batch: Batch) -> Tensor:
    """Cross entropy, (lanes,)."""
    return cross_entropy(logits_of(p, batch[0]), batch[1])


def digits_mlp(width: int = 64, depth: int = 1) -> Task:
    """64 inputs, ``depth`` hidden layers of ``width`` units, 10 classes."""
    shapes: list[tuple[int, ...]] = []
    for inputs, outputs in pairwise((INPUTS, *depth * (width,), CLASSES)):
        shapes += [(inputs, outputs), (outputs,)]
    return Mlp(
        name="digits MLP",
        optimizer="sgd",
        shapes=tuple(shapes),
        draw=draw_flat_digits,
        loss=mlp_loss,
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
