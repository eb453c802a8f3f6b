"""A user's own layer: a few lines; what is wrong with them is named and does no harm."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_noise.probes.examples import CoverageError, Outer, register_rule, registry
from lightning_noise.probes.examples.rule import RuleFunction
from testing.examples.oracle import Truth, assert_agrees, loop, step
from testing.examples.oracle import bound_to_layers as bound


class Scale(nn.Module):
    """A user's layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class Turned(nn.Module):
    """A linear layer that stores its weight the other way around (K, L), as in some language
    models.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_rules", dict(registry._rules))


def scale(module: Scale, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Tensor]:
    return {"gamma": (grad * inputs[0]).sum(1)}


@pytest.fixture
def problem() -> Iterator[tuple[nn.Module, Callable[[], Tensor], Truth]]:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = nn.Sequential(nn.Linear(4, 30), Scale(30), Turned(30, 3)).double()
        x = torch.randn(5, 6, 4, dtype=torch.float64)
    part = lambda rows: model(x[rows]).square().sum() / 5  # noqa: E731
    yield (
        model,
        lambda: part(slice(None)),
        loop(model, [lambda i=i: part(slice(i, i + 1)) for i in range(5)]),
    )


def test_unknown_layers_are_named(problem) -> None:
    model, whole, _ = problem
    message = r"2\.weight \(90 parameters\): no rule for Turned \(2\)"
    with pytest.raises(CoverageError, match=message):
        step(bound(model), model, whole, 5)


def test_a_rule_that_builds(problem) -> None:
    model, whole, truth = problem
    register_rule(Scale, scale)
    register_rule(Turned, lambda module, inputs, grad: {"weight": inputs[0].transpose(1, 2) @ grad})
    assert_agrees(step(bound(model, exact=True), model, whole, 5), truth, 5)


def test_a_rule_that_hands_out_factors(problem) -> None:
    model, whole, truth = problem
    register_rule(Scale, scale)
    register_rule(Turned, lambda module, inputs, grad: {"weight": Outer(inputs[0], grad)})
    assert_agrees(step(bound(model, exact=True), model, whole, 5), truth, 5)
    found = step(bound(model), model, whole, 5)
    assert found is not None  # it offers no form, so that it is built, exactly
    assert found["2.weight"].q_small == pytest.approx(5 * truth.small["2.weight"])


def test_a_subclass_is_served_and_a_rule_can_be_replaced(problem) -> None:
    calls = []
    register_rule(Scale, lambda *args: calls.append(1) or scale(*args))
    model = nn.Sequential(type("Special", (Scale,), {})(4))
    assert step(bound(model), model, lambda: model(torch.ones(5, 2, 4)).sum(), 5) is not None
    assert calls


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda module, inputs, grad: {"gamma": 2 * grad.sum(1)}, "not the sum over the examples"),
        (
            lambda module, inputs, grad: {"gamma": grad},
            r"its rule gave shape \(5, 6, 30\) for '1.gamma'",
        ),
        (lambda module, inputs, grad: {}, "its rule gave nothing for '1.gamma'"),
        (lambda module, inputs, grad: {"gamma": grad / inputs[7]}, "its rule raised IndexError"),
    ],
    ids=["wrong", "shape", "nothing", "raises"],
)
def test_a_wrong_rule_does_no_harm(problem, rule, words: str) -> None:
    model, whole, truth = problem
    register_rule(Scale, rule)
    register_rule(Turned, lambda module, inputs, grad: {"weight": inputs[0].transpose(1, 2) @ grad})
    probe = bound(model, exact=True, min_coverage=0.5)
    assert step(probe, model, whole, 5) is None
    assert probe.coverage is not None
    (missing,) = probe.coverage.missing
    assert missing.name == "1.gamma"
    assert re.search(words, missing.reason)
    found = step(probe, model, whole, 5)
    assert found is not None
    rest = [name for name in truth.small if name != "1.gamma"]
    assert found[""].noise == pytest.approx(truth.moments(5, rest).noise, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [(int, scale, "module_type must be"), (Scale, 3, "rule must be callable")],
)
def test_arguments(kind: type, rule: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        register_rule(kind, rule)  # type: ignore[arg-type]


def documented_rule(text: str) -> RuleFunction:
    """The expression for the layer ``Scale`` that users are shown."""
    expression = re.search(r'\{"gamma": .*\.sum\(1\)\}', text)
    assert expression is not None
    return eval(f"lambda module, inputs, grad: {expression.group()}")


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4), (6, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("place", ["page", "docstring"])
def test_the_rule_that_users_are_shown(place: str, shape: tuple[int, ...]) -> None:
    page = Path(__file__).parents[3] / "docs" / "single_device.md"
    text = page.read_text("utf-8") if place == "page" else register_rule.__doc__ or ""
    register_rule(Scale, documented_rule(text))
    layer, x = Scale(4).double(), torch.randn(shape, dtype=torch.float64)
    truth = loop(layer, [lambda i=i: layer(x[i : i + 1]).square().sum() / 6 for i in range(6)])
    probe = bound(layer, exact=True)
    assert_agrees(step(probe, layer, lambda: layer(x).square().sum() / 6, 6), truth, 6)
