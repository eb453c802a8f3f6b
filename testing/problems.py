"""Problems whose answer is known without running the code under test."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Exact(NamedTuple):
    """One optimizer step with micro-batches of given inputs; what it must give, derived by hand."""

    name: str
    module: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor]
    micro_batches: list[list[list[float]]]
    noise: float
    signal: float


def summed(module: nn.Module, x: Tensor) -> Tensor:
    """The sum of the outputs: the gradient of a weight row is the input itself, of a bias 1; one
    example a micro-batch.
    """
    return module(x).sum()


def zero_regression(module: nn.Module, x: Tensor) -> Tensor:
    """Mean squared error against 1 with all weights 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return (module(x) - 1).square().mean()


def linear22() -> nn.Module:
    return nn.Linear(2, 2)


def linear21() -> nn.Module:
    return nn.Linear(2, 1, bias=False)


REGRESSION = [[1.0, 4.0], [5.0, 0.5], [-2.0, 1.0], [0.5, 3.0]]
EXACT = [
    Exact("two inputs", linear22, summed, [[[1.0, 4.0]], [[5.0, 0.5]]], 28.25, 16.0),
    Exact("opposite inputs", linear22, summed, [[[-1.0, 1.0]], [[1.0, -1.0]]], 8.0, -2.0),
    Exact("equal inputs", linear22, summed, [[[1.0, 1.0]], [[1.0, 1.0]]], 0.0, 6.0),
    Exact("first of two steps", linear22, summed, [[[-0.2, 3.3]], [[5.2, 0.7]]], 35.92, 4.54),
    Exact("second of two steps", linear22, summed, [[[1.0, 4.0]], [[3.1, 0.1]]], 19.62, 9.0),
    Exact(
        "orthogonal",
        lambda: nn.Linear(4, 2, bias=False),
        summed,
        [[row] for row in torch.eye(4).tolist()],
        2.0,
        0.0,
    ),
    Exact("single examples", linear21, zero_regression, [[row] for row in REGRESSION], 44.5, 12.0),
    Exact("two halves", linear21, zero_regression, [REGRESSION[:2], REGRESSION[2:]], 56.5, 9.0),
]
