"""Gradients at the gates of recurrent layers, against autograd through torch's own kernels."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from lightning_noise.probes.examples.calls.cells import Weights
from lightning_noise.probes.examples.calls.unrolled import Called, Trace, traces

MODULES = {
    "lstm": lambda **o: nn.LSTM(3, 4, 2, **o),
    "gru": lambda **o: nn.GRU(3, 4, 2, **o),
    "rnn_tanh": lambda **o: nn.RNN(3, 4, 2, nonlinearity="tanh", **o),
    "rnn_relu": lambda **o: nn.RNN(3, 4, 2, nonlinearity="relu", **o),
}
OUTPUTS = [(kind, item) for kind in MODULES for item in (0, 1)] + [("lstm", 2)]
KINDS = [
    (*output, *how) for output in OUTPUTS for how in itertools.product((False, True), repeat=2)
]


def of_weights(trace: Trace) -> list[Tensor]:
    """Gradients of w_ih, w_hh, b_ih, b_hh, summed over examples and steps."""
    at_input, at_state = trace.slopes
    return [
        torch.einsum("tbg,tbi->gi", at_input, trace.inputs),
        torch.einsum("tbg,tbi->gi", at_state, trace.before),
        at_input.sum((0, 1)),
        at_state.sum((0, 1)),
    ]


@pytest.mark.parametrize(("kind", "item", "bias", "bidirectional"), KINDS)
def test_they_give_the_gradients_of_all_weights(
    kind: str, item: int, bias: bool, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    module = MODULES[kind](bias=bias, bidirectional=bidirectional).double()
    directions = 2 if bidirectional else 1
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    states, cells = torch.randn(2, 2 * directions, 5, 4, dtype=torch.float64)
    given = (states, cells) if kind == "lstm" else states
    out, last = module(x, given)
    output = (out, *last)[item] if kind == "lstm" else (out, last)[item]
    grad = torch.randn_like(output)
    wanted = torch.autograd.grad(output, list(module.parameters()), grad)
    names = [name.split("_l")[0] for name, _ in module.named_parameters()]
    step = names[1:].index(names[0]) + 1  # parameters per layer and direction
    matrices = [parameter.detach() for parameter in module.parameters()]
    weights = []
    for start in range(0, len(matrices), step):
        weights.append(Weights(*[*matrices[start : start + step], None, None][:4]))
    called = Called(kind, x, states, cells if kind == "lstm" else None, weights, directions)
    found: list[Tensor] = []
    for trace in traces(called, item, grad):
        found += of_weights(trace)[:step]
    for of_autograd, of_gates in zip(wanted, found, strict=True):
        torch.testing.assert_close(of_gates, of_autograd, rtol=1e-10, atol=1e-10)
