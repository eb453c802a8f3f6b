"""Layers whose output is a view, with operations in place after them, against a loop."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_noise.probes.examples import register_rule
from lightning_noise.probes.examples.output import source_of
from testing.examples.oracle import assert_agrees, bound, loop, step


def norm(kind: type[nn.Module], **settings: object) -> nn.Module:
    """An affine norm whose weights are not all alike."""
    layer = kind(4, affine=True, **settings)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def running(kind: type[nn.Module]) -> nn.Module:
    """In eval mode it normalises by statistics of the past."""
    layer = norm(kind, track_running_stats=True).eval()
    layer.running_mean += 0.3
    layer.running_var *= 2
    return layer


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear, three dimensions": (lambda: nn.Linear(4, 6), (5, 7, 4)),
    "linear, four dimensions": (lambda: nn.Linear(4, 6), (5, 3, 2, 4)),
    "instance norm 1d": (lambda: norm(nn.InstanceNorm1d), (5, 4, 6)),
    "instance norm 2d": (lambda: norm(nn.InstanceNorm2d), (5, 4, 3, 2)),
    "instance norm 3d": (lambda: norm(nn.InstanceNorm3d), (5, 4, 3, 2, 2)),
    "instance norm with its past": (lambda: running(nn.InstanceNorm2d), (5, 4, 3, 2)),
}
IN_PLACE = {
    "relu": torch.relu_,
    "add": lambda y: y.add_(1),
    "mul": lambda y: y.mul_(2),
    "none": lambda y: y,
}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("after", IN_PLACE)
@pytest.mark.parametrize("name", CASES)
def test_an_operation_in_place_after_a_view(name: str, after: str, exact: bool) -> None:
    build, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
        last = nn.Linear(layer(x).shape[-1], 3).double()
    model = nn.ModuleList([layer, last])
    loss = lambda x: last(IN_PLACE[after](layer(x))).square().sum() / 5  # noqa: E731
    truth = loop(model, [lambda i=i: loss(x[i : i + 1]) for i in range(5)])
    probe = bound(model, exact=exact)
    found = step(probe, model, lambda: loss(x), 5)
    assert probe.coverage is not None and not probe.coverage.missing, probe.fault()
    if exact:
        assert_agrees(found, truth, 5)
    else:
        wanted = pytest.approx(5 * truth.small["0.bias"])
        assert found is not None and found["0.bias"].q_small == wanted


def test_channels_last() -> None:
    layer = norm(nn.InstanceNorm2d).double()
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    truth = loop(layer, [lambda i=i: layer(x[i : i + 1]).relu_().square().sum() for i in range(5)])
    whole = lambda: layer(x).relu_().square().sum()  # noqa: E731
    assert_agrees(step(bound(layer, exact=True), layer, whole, 5), truth, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    """As without an operation in place, to the last bit."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, x = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), torch.randn(5, 7, 4)

    def whole(relu: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return model[1](relu(model[0](x))).float().square().mean()

    probes = [bound(model, exact=True) for _ in range(2)]
    in_place = step(probes[0], model, lambda: whole(torch.relu_), 5)
    apart = step(probes[1], model, lambda: whole(torch.relu), 5)
    assert in_place is not None and in_place == apart


def test_gradients_are_bit_for_bit_the_same() -> None:
    model, x = (
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
        torch.randn(5, 7, 4),
    )
    model(x).square().mean().backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert step(bound(model), model, lambda: model(x).square().mean(), 5) is not None
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), plain, strict=True))


class Transposed(nn.Module):
    """Returns a transposed view of what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.gamma).transpose(1, 2)


def turned_rule(module: nn.Module, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Tensor]:
    return {"gamma": (grad.transpose(1, 2) * inputs[0]).sum(1)}


def test_a_view_that_lies_otherwise_than_its_base() -> None:
    register_rule(Transposed, turned_rule)
    layer, x = Transposed().double(), torch.randn(5, 3, 4, dtype=torch.float64)
    weights = torch.randn(4, 3, dtype=torch.float64)
    loss = lambda x: (layer(x).relu_() * weights).square().sum()  # noqa: E731
    truth = loop(layer, [lambda i=i: loss(x[i : i + 1]) for i in range(5)])
    assert_agrees(step(bound(layer, exact=True), layer, lambda: loss(x), 5), truth, 5)


def test_a_view_of_an_input_or_of_a_part_is_no_base() -> None:
    x = torch.randn(5, 4, requires_grad=True) * 2
    for output, inputs in ((x.view(4, 5), [x]), (x[:2], []), (x.view(4, 5), [x.view(20)])):
        assert source_of(output, inputs).tensor is output
    assert source_of(x.view(4, 5), []).tensor is x
