"""Models on real data whose gradients are measured at fixed weights, for ``precision``."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gain.tasks import text
from benchmarks.harness.models import Transformer, resnet

SYMBOLS = 128  # of the text


class Batch(NamedTuple):
    """Examples first."""

    inputs: Tensor
    targets: Tensor

    def parts(self, number: int) -> list["Batch"]:
        """Micro-batches of equally many examples."""
        pairs = zip(self.inputs.chunk(number), self.targets.chunk(number), strict=True)
        return [Batch(inputs, targets) for inputs, targets in pairs]


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    """Mean over the batch, whose examples have equally many targets."""
    return F.cross_entropy(module(batch.inputs).flatten(0, -2), batch.targets.flatten())


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model and where its batches come from.

    Args:
        build: the model, of random weights.
        draw: (generator, examples) → a batch, drawn with replacement, so that all batches are
            independent of each other.
        examples: in the batch of a step; divisible by 8.
        trained: steps of AdamW before the weights are held.
        loss: mean over the batch.
    """

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator, int], Batch]
    examples: int
    trained: int
    loss: Callable[[nn.Module, Batch], Tensor] = cross_entropy

    def batch(self, generator: torch.Generator) -> Batch:
        """Of one step."""
        return self.draw(generator, self.examples)


@functools.cache
def prepared(task: Task) -> nn.Module:
    """The model after its training, from a fixed seed. To be copied before it is used."""
    torch.manual_seed(0)
    module = task.build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(task.trained):
        optimizer.zero_grad()
        task.loss(module, task.batch(generator)).backward()
        optimizer.step()
    module.zero_grad()
    return module


# ---- data ---------------------------------------------------------------------------------------


@functools.cache
def digits(side: int) -> Batch:
    """scikit-learn's digits, magnified to ``side`` pixels and three channels."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    larger = F.interpolate(images, (side, side), mode="bilinear")
    return Batch(larger.repeat(1, 3, 1, 1), torch.tensor(found.target))


def draw_digits(side: int, generator: torch.Generator, examples: int) -> Batch:
    """Images (N, 3, side, side)."""
    images, targets = digits(side)
    index = torch.randint(len(targets), (examples,), generator=generator)
    return Batch(images[index], targets[index])


def draw_text(context: int, generator: torch.Generator, examples: int) -> Batch:
    """Pieces of Python's standard library, each symbol with the one that follows."""
    source = text()
    begins = torch.randint(len(source) - context - 1, (examples,), generator=generator)
    pieces = source[begins.unsqueeze(1) + torch.arange(context + 1)]
    return Batch(pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous())


# ---- tasks --------------------------------------------------------------------------------------


def mlp(side: int, width: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * side * side, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def tasks(width: int, side: int, context: int, examples: int, trained: int) -> dict[str, Task]:
    """All tasks, of about these sizes."""
    images = functools.partial(draw_digits, side)
    return {
        "mlp": Task(
            name="MLP on digits",
            build=functools.partial(mlp, side, 32 * width),
            draw=images,
            examples=2 * examples,
            trained=trained,
        ),
        "transformer": Task(
            name="transformer on Python's sources",
            build=functools.partial(Transformer, 4 * width, 2, context, SYMBOLS),
            draw=functools.partial(draw_text, context),
            examples=examples,
            trained=trained,
        ),
        "resnet": Task(
            name="ResNet with GroupNorm on digits",
            build=functools.partial(resnet, width),
            draw=images,
            examples=examples,
            trained=trained,
        ),
    }


SIZES = {
    "whole": tasks(width=16, side=16, context=32, examples=32, trained=50),
    "tiny": tasks(width=8, side=8, context=8, examples=8, trained=2),
}
TASKS = tuple(SIZES["whole"])
