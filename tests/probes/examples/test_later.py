"""Small calls of one kind are taken at once, after the backward pass."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_noise import Examples
from lightning_noise.core.moments import Key
from lightning_noise.probes import small

STEPS = 3  # the first is checked, and takes every call for itself


class Alike(nn.Module):
    """Layers of one shape, with and without a bias, over positions or none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.bare = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(2))
        self.twice = nn.Linear(6, 6)

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer(norm(x)).tanh()
        x = self.twice(self.twice(x).tanh())
        x = self.layers[-1](x).tanh()
        return self.bare[1](self.bare[0](x).tanh())


def rows_of(model, x, **arguments):
    """Rows of steps, for the whole model and one layer of it."""
    probe = Examples(**arguments)
    probe.bind(model)
    names = [name for name, _ in model.named_parameters()]
    keys = {Key(): names, Key(layer="0"): ["layers.0.weight", "layers.0.bias"]}
    found = []
    with probe.attach(dict(model.named_parameters()), keys):
        for _ in range(STEPS):
            model.zero_grad()
            probe.starts(0)
            probe.listen(len(x))
            loss = model(x).square().flatten(1).sum(1).mean()
            probe.begin(len(x), 1.0)
            loss.backward()
            probe.end()
            found.append(probe.row())
            probe.rest()
    return found


@pytest.mark.parametrize("positions", [None, 5])
@pytest.mark.parametrize("arguments", [{}, {"sketches": 2}, {"exact": True}], ids=str)
def test_taken_at_once_or_one_by_one(positions, arguments):
    model = Alike().double()
    shape = (4, 6) if positions is None else (4, positions, 6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first, *later = rows_of(model, x, **arguments)
    for row in later:
        assert torch.allclose(row, first, rtol=1e-12)


class Kernels(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func is torch.ops.aten.linalg_vector_norm.default
        return func(*args, **(kwargs or {}))


def counted(layers):
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(layers)])
    probe, kernels = Examples(), Kernels()
    probe.bind(model)
    names = [name for name, _ in model.named_parameters()]
    with probe.attach(dict(model.named_parameters()), {Key(): names}):
        for _ in range(2):
            kernels.calls = 0
            probe.begin(4, 1.0)
            loss = model(torch.ones(4, 6)).square().sum()
            with kernels:
                loss.backward()
                probe.end()
                probe.row()
    return kernels.calls


def test_more_layers_of_a_kind_take_no_more_kernels():
    assert counted(20) == counted(2)


def test_calls_without_room_are_taken_at_once_in_the_pass(monkeypatch):
    model, x = Alike().double(), torch.ones(4, 6, dtype=torch.float64)
    with_room = rows_of(model, x)
    monkeypatch.setattr(small, "HELD_ON_CPU", 0)
    for row, other in zip(rows_of(model, x), with_room, strict=True):
        assert torch.allclose(row, other, rtol=1e-12)


def test_no_gradient_is_held_when_the_pass_is_over():
    model, seen = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), []
    probe = Examples()
    probe.bind(model)
    names = [name for name, _ in model.named_parameters()]
    with probe.attach(dict(model.named_parameters()), {Key(): names}):
        for finish in (probe.end, probe.end, probe.discard):
            probe.begin(4, 1.0)
            hidden = model[0](torch.ones(4, 3))
            hidden.register_hook(lambda grad: seen.append(weakref.ref(grad)))
            model[1](hidden).sum().backward()
            finish()
            del hidden
            gc.collect()
            assert seen[-1]() is None
            probe.row()
