"""Rules speak of operations: the same ones serve a module and a call of the function."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.core.moments import Key
from lightning_noise.probes.examples import (
    CoverageError,
    Dense,
    Form,
    NotPerExample,
    Outer,
    Rule,
    register_rule,
    registry,
)
from lightning_noise.probes.examples.contribution import Contribution
from lightning_noise.probes.examples.rule import Operands, Parts
from lightning_noise.probes.examples.rules.convolution import ConvolutionRule
from lightning_noise.probes.examples.rules.embedding import EmbeddingRule
from lightning_noise.probes.examples.rules.linear import LinearRule
from lightning_noise.probes.examples.rules.norms import (
    GroupNormRule,
    InstanceNormRule,
    LayerNormRule,
    RMSNormRule,
)
from testing.examples.oracle import assert_agrees, loop, step
from testing.examples.oracle import bound_to_layers as bound


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_rules", dict(registry._rules))


class Call(NamedTuple):
    """A function's call without a module."""

    rule: Rule
    function: Callable[..., Tensor]  # of the input and the operands, in the order given
    shapes: dict[str, tuple[int, ...]]  # of the operands
    inputs: tuple[int, ...]
    ids: int = 0


RUNNING = torch.arange(1.0, 5.0, dtype=torch.float64), torch.arange(2.0, 6.0, dtype=torch.float64)
CALLS = {
    "linear": Call(LinearRule(), functional.linear, {"weight": (5, 4), "bias": (5,)}, (3, 6, 4)),
    "conv2d": Call(
        ConvolutionRule(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        lambda x, w, b: functional.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2),
        {"weight": (6, 2, 3, 2), "bias": (6,)},
        (3, 4, 7, 6),
    ),
    "conv1d, same": Call(
        ConvolutionRule(stride=(1,), padding="same", dilation=(2,)),
        lambda x, w, b: functional.conv1d(x, w, b, padding="same", dilation=2),
        {"weight": (5, 4, 3), "bias": (5,)},
        (3, 4, 8),
    ),
    "embedding": Call(
        EmbeddingRule(padding=2),
        lambda ids, w: functional.embedding(ids, w, padding_idx=2),
        {"weight": (7, 4)},
        (3, 9),
        ids=7,
    ),
    "layer_norm": Call(
        LayerNormRule(eps=0.1),
        lambda x, w, b: functional.layer_norm(x, (5, 4), w, b, 0.1),
        {"weight": (5, 4), "bias": (5, 4)},
        (3, 6, 5, 4),
    ),
    "rms_norm": Call(
        RMSNormRule(eps=None),
        lambda x, w: functional.rms_norm(x, (4,), w),
        {"weight": (4,)},
        (3, 6, 4),
    ),
    "group_norm": Call(
        GroupNormRule(groups=2, eps=0.1),
        lambda x, w, b: functional.group_norm(x, 2, w, b, 0.1),
        {"weight": (4,), "bias": (4,)},
        (3, 4, 5),
    ),
    "instance_norm": Call(
        InstanceNormRule(space=1, eps=0.1, running=None),
        lambda x, w, b: functional.instance_norm(x, None, None, w, b, eps=0.1),
        {"weight": (4,), "bias": (4,)},
        (3, 4, 5),
    ),
    "instance_norm, of the past": Call(
        InstanceNormRule(space=1, eps=0.1, running=RUNNING),
        lambda x, w, b: functional.instance_norm(x, *RUNNING, w, b, use_input_stats=False, eps=0.1),
        {"weight": (4,), "bias": (4,)},
        (3, 4, 5),
    ),
}


def operands_of(call: Call) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = {}
    for name, shape in call.shapes.items():
        values = torch.randn(shape, dtype=torch.float64, generator=generator)
        drawn[name] = values.requires_grad_()
    return drawn


def input_of(call: Call) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if call.ids:
        return torch.randint(call.ids, call.inputs, generator=generator)
    return torch.randn(call.inputs, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", CALLS)
def test_a_rule_serves_a_function_without_a_module(name: str) -> None:
    call = CALLS[name]
    operands, x = operands_of(call), input_of(call)
    out = call.function(x, *operands.values())
    grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3))
    parts = call.rule.contributions(operands, (x,), grad)
    assert parts.keys() == operands.keys()
    for operand, part in parts.items():
        assert isinstance(part, Contribution)
        for i in range(len(x)):
            (truth,) = torch.autograd.grad(out[i], operands[operand], grad[i], retain_graph=True)
            torch.testing.assert_close(part.build(slice(i, i + 1))[0], truth)


@pytest.mark.parametrize("name", CALLS)
def test_only_what_is_watched_is_computed_and_a_bias_needs_no_inputs(name: str) -> None:
    call = CALLS[name]
    operands, x = operands_of(call), input_of(call)
    grad = torch.ones_like(call.function(x, *operands.values()))
    for operand in call.rule.parameters or ():
        alone = {operand: operands[operand]}
        inputs = () if operand in call.rule.without_inputs else (x,)
        parts = call.rule.contributions(alone, inputs, grad)
        assert parts.keys() == {operand}
        assert parts[operand].total().shape == operands[operand].shape


def test_a_rule_without_arguments_is_the_same_for_every_module() -> None:
    rule = LinearRule()
    assert rule.read(nn.Linear(2, 3)) is rule


class Shifted(nn.Module):
    """A linear map, and a shift before it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.shift = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.shift


class ShiftedRule(Rule):
    """All that a rule may declare."""

    op = "shifted linear"
    parameters = frozenset({"weight", "shift"})
    without_inputs = frozenset({"shift"})
    positions_first = True

    def __init__(self, refusal: str | None = None, doubt: str | None = None) -> None:
        self.refusal, self.doubt = refusal, doubt

    def refuses(self) -> str | None:
        return self.refusal

    def doubts(self, inputs: tuple[Tensor, ...]) -> str | None:
        return self.doubt

    def forms(self, name: str, operand: Tensor) -> tuple[Form, ...]:
        return (Form("cols", operand.shape[1]),) if name == "weight" else ()

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Parts:
        parts: dict[str, Contribution] = {"shift": Dense(grad.sum(1))}
        if "weight" in operands:
            parts["weight"] = Outer(inputs[0], grad)
        return parts


def shifted() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Shifted(40, 30).double(), torch.randn(5, 6, 40, dtype=torch.float64)


def test_a_users_rule_offers_sketches_and_keeps_no_needless_inputs() -> None:
    register_rule(Shifted, ShiftedRule())
    model, x = shifted()
    part = lambda rows: model(x[rows]).square().sum() / 5  # noqa: E731
    truth = loop(model, [lambda i=i: part(slice(i, i + 1)) for i in range(5)])
    assert_agrees(step(bound(model, exact=True), model, lambda: part(slice(None)), 5), truth, 5)
    found = [step(bound(model, seed=seed), model, lambda: part(slice(None)), 5) for seed in (1, 2)]
    assert found[0]["weight"] != found[1]["weight"]  # sketched: they depend on the signs
    assert found[0]["shift"] == found[1]["shift"]
    model.weight.requires_grad_(False)
    packed: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert step(bound(model), model, lambda: part(slice(None)), 5) is not None
    assert x.data_ptr() not in packed


def test_a_users_rule_refuses_and_doubts() -> None:
    model, x = shifted()
    parameters = dict(model.named_parameters())
    register_rule(Shifted, ShiftedRule(refusal="the moon is full"))
    with pytest.raises(CoverageError, match=r"weight, shift \(1230 parameters\): the moon is full"):
        bound(model).survey(parameters)
    register_rule(Shifted, ShiftedRule(doubt="they may be positions"))
    probe = bound(model)
    assert step(probe, model, lambda: model(x).square().sum(), 5) is None
    assert probe.coverage is not None
    assert {part.reason for part in probe.coverage.missing} == {"they may be positions"}


def test_an_operand_that_a_rule_does_not_serve_is_named_with_the_operation() -> None:
    class Scaled(nn.Embedding):
        def __init__(self) -> None:
            super().__init__(6, 6)
            self.scale = nn.Parameter(torch.tensor(1.0))

    model = nn.ModuleDict({"scaled": Scaled()})
    missing = bound(model).survey(dict(model.named_parameters())).missing
    wanted = "its layer's rule (embedding) does not serve it (scaled)"
    assert [(part.name, part.reason) for part in missing] == [("scaled.scale", wanted)]


def test_arguments_are_read_at_every_step() -> None:
    """Also inside of one attachment: eval mode, another epsilon."""
    layer = nn.InstanceNorm1d(4, affine=True, track_running_stats=True).double()
    layer.running_mean += 0.3
    layer.running_var *= 2
    x = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probe = bound(layer, exact=True)
    parts = [lambda i=i: layer(x[i : i + 1]).pow(3).sum() for i in range(5)]
    names = ["weight", "bias"]
    with probe.attach(dict(layer.named_parameters()), {Key(): names}):
        for change in (layer.eval, lambda: setattr(layer, "eps", 0.5)):
            change()
            truth = loop(layer, parts).moments(5, names)
            probe.begin(5, 1.0)
            layer(x).pow(3).sum().backward()
            probe.end()
            row = probe.row()
            assert row is not None
            assert row[0].tolist() == pytest.approx(list(truth), rel=1e-9)


def test_without_a_batch_dimension_a_rule_says_so() -> None:
    rule = InstanceNormRule(space=2, eps=0.1, running=None)
    grad = torch.ones(3, 4, 5)
    with pytest.raises(NotPerExample, match="called without a batch dimension"):
        rule.contributions({"bias": torch.ones(3)}, (grad,), grad)
