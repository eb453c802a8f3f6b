"""A parameter used several times has one gradient, the sum of its uses: with the same signs at each
of them.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.examples.oracle import Loss, assert_agrees, bound, loop, step


class Tied(nn.Module):
    """An embedding whose table is also the head, and padding that the head does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=3)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table((x.abs() * 4).long().clamp(max=10)).tanh())


class Twice(nn.Module):
    """Every kind of layer, each called twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class TwiceAndTied(nn.Module):
    """Two layers own one weight, of which one is called twice; one use is a matrix, the other one
    position.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.second(self.first(x).tanh()).mean(1).tanh())


MODELS = {
    "tied": (Tied, (4, 9)),
    "linear": (lambda: Twice(nn.Linear(6, 6)), (4, 6)),
    "linear on a sequence": (lambda: Twice(nn.Linear(6, 6)), (4, 5, 6)),
    "conv, rows": (lambda: Twice(nn.Conv2d(10, 10, 3, padding=1)), (4, 10, 5, 4)),
    "conv, cols": (lambda: Twice(nn.Conv1d(2, 2, 3, padding=2)), (4, 2, 7)),
    "layer norm": (lambda: Twice(nn.LayerNorm(6)), (4, 5, 6)),
    "group norm": (lambda: Twice(nn.GroupNorm(2, 6)), (4, 6, 5)),
    "twice and tied": (TwiceAndTied, (4, 5, 6)),
}


def problem(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> tuple[nn.Module, Loss, list[Loss]]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model, x = make().double(), torch.randn(shape, dtype=torch.float64)

    def part(rows: slice) -> Loss:
        return lambda: model(x[rows]).square().flatten(1).sum() / len(x)

    return model, part(slice(None)), [part(slice(i, i + 1)) for i in range(len(x))]


@pytest.mark.parametrize("name", MODELS)
def test_exact(name: str) -> None:
    model, whole, parts = problem(*MODELS[name])
    assert_agrees(step(bound(model, exact=True), model, whole, 4), loop(model, parts), 4)


@pytest.mark.parametrize("name", MODELS)
def test_sketched_in_the_mean(name: str) -> None:
    model, whole, parts = problem(*MODELS[name])
    truth = loop(model, parts).moments(4, [key for key, _ in model.named_parameters()])
    draws = torch.tensor(
        [step(bound(model, seed=s), model, whole, 4)[""].q_small for s in range(100)],
        dtype=torch.float64,
    )
    assert abs(draws.mean() - truth.q_small) <= 4 * draws.std() / 10 + 1e-9 * truth.q_small


def test_a_use_without_gradient_is_no_second_use() -> None:
    layer = nn.Linear(6, 3).double()
    x = torch.randn(4, 6, dtype=torch.float64)

    def whole() -> Tensor:
        with torch.no_grad():
            aim = layer(x + 1)
        return functional.mse_loss(layer(x), aim, reduction="sum") / 4

    parts = [
        lambda i=i: (layer(x[i : i + 1]) - layer(x[i : i + 1] + 1).detach()).square().sum() / 4
        for i in range(4)
    ]
    assert_agrees(step(bound(layer, exact=True), layer, whole, 4), loop(layer, parts), 4)
