"""Checkpointing of either kind, offloading, in-place operations, second walks through a graph."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from lightning_noise import Key
from lightning_noise.probes.examples.faults import SEEN_TWICE
from testing.examples.oracle import assert_agrees, bound, loop, step
from testing.old_torch import saving_hooks


class Segments(nn.Module):
    """The same layer in two checkpointed segments, one position each."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.shared, self.own = nn.Linear(6, 6), nn.Linear(6, 6)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = checkpoint(lambda y: self.shared(y).tanh(), x, use_reentrant=self.reentrant)
        return checkpoint(lambda y: self.own(y), x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_shared_by_two_segments(reentrant: bool, exact: bool) -> None:
    model = Segments(reentrant).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    truth = loop(model, [lambda i=i: model(x[i : i + 1]).square().sum() / 4 for i in range(4)])
    whole = lambda: model(x).square().sum() / 4  # noqa: E731
    if exact:
        probe = bound(model, exact=True)
        assert_agrees(step(probe, model, whole, 4), truth, 4)
        assert probe.coverage is not None and not probe.coverage.missing
        return
    found = [step(bound(model, seed=seed), model, whole, 4) for seed in range(100)]
    draws = torch.tensor([one["shared.weight"].q_small for one in found if one is not None])
    assert abs(draws.mean() - 4 * truth.small["shared.weight"]) < 4 * draws.std() / 10
    assert all(
        one is not None
        and one["own.weight"].q_small == pytest.approx(4 * truth.small["own.weight"])
        for one in found
    )


@saving_hooks
def test_what_is_kept_goes_through_the_hooks_of_saved_tensors() -> None:
    """So that offloading offloads it and checkpointing throws it away."""
    layer, x, packed = nn.Linear(6, 3), torch.randn(4, 6), []
    probe = bound(layer)
    with saved_tensors_hooks(lambda t: packed.append(t.data_ptr()) or t, lambda t: t):
        assert step(probe, layer, lambda: layer(x).sum(), 4) is not None
    assert packed.count(x.data_ptr()) == 2  # autograd's and ours


def test_offloading() -> None:
    layer, x = nn.Linear(6, 3).double(), torch.randn(4, 5, 6, dtype=torch.float64)

    def whole() -> Tensor:
        with save_on_cpu():
            return layer(x).square().sum() / 4

    truth = loop(layer, [lambda i=i: layer(x[i : i + 1]).square().sum() / 4 for i in range(4)])
    assert_agrees(step(bound(layer, exact=True), layer, whole, 4), truth, 4)


def test_inputs_are_let_go_in_the_backward_pass() -> None:
    """Not held until the graph goes: autograd frees them as it walks, and so does the probe."""
    model, freed = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)), []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.tanh()

    model[1] = Watched()
    x = torch.randn(4096, 16, requires_grad=True)  # small inputs wait for the end of the pass
    held = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        held["storage"] = torch.multiprocessing.reductions.StorageWeakRef(output.untyped_storage())

    model[1].register_forward_hook(note)
    model[0].register_full_backward_hook(lambda *_: freed.append(held["storage"].expired()))
    probe = bound(model)
    assert step(probe, model, lambda: model(x).sum(), 4096) is not None
    assert freed == [True]


def test_in_place_activations() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv1d(4, 3, 3), nn.ReLU(inplace=True)
    ).double()
    x = torch.randn(4, 2, 9, dtype=torch.float64)
    truth = loop(model, [lambda i=i: model(x[i : i + 1]).square().sum() / 4 for i in range(4)])
    assert_agrees(
        step(bound(model, exact=True), model, lambda: model(x).square().sum() / 4, 4), truth, 4
    )


def test_an_input_changed_in_place_is_named() -> None:
    """RMSNorm and a bias have no need of what LayerNorm keeps; here the rule needs an input that
    autograd let go.
    """
    layer = nn.Linear(6, 6)

    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.last = Scale(), layer

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            y = self.scale(x)
            x.add_(1)
            return self.last(y)

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.shift

    from lightning_noise.probes.examples import register_rule

    register_rule(Scale, lambda module, inputs, grad: {"shift": grad + 0 * inputs[0]})
    model, x = Changes(), torch.randn(4, 6)
    probe = bound(model, min_coverage=0.1, calls=False)
    assert step(probe, model, lambda: model(x).sum(), 4) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "parameters_left_out"
    assert "modified in place" in fault.text
    assert step(probe, model, lambda: model(x).sum(), 4) is not None


def test_two_losses_in_one_micro_batch_add_up() -> None:
    layer, x = nn.Linear(6, 3).double(), torch.randn(4, 6, dtype=torch.float64)
    probe, keys = bound(layer, exact=True), {Key(): list(dict(layer.named_parameters()))}
    with probe.attach(dict(layer.named_parameters()), keys):
        rows = []
        for _ in range(2):
            layer.zero_grad()
            probe.begin(4, 1.0)
            (layer(x).sum() / 4).backward()
            (layer(x).square().sum() / 4).backward()
            probe.end()
            rows.append(probe.row())
    both = [
        lambda i=i: (layer(x[i : i + 1]).sum() + layer(x[i : i + 1]).square().sum()) / 4
        for i in range(4)
    ]
    truth = loop(layer, both)
    # small calls are taken after the pass: the second use is known by then, in the first step too
    for row in rows:
        assert row is not None
        assert float(row[0, 0]) == pytest.approx(4 * sum(truth.small.values()), rel=1e-10)


def test_a_graph_walked_twice_is_a_fault() -> None:
    layer, x = nn.Linear(6, 3), torch.randn(4, 6)
    probe = bound(layer)
    with probe.attach(dict(layer.named_parameters()), {}):
        for again in (True, False):
            probe.begin(4, 1.0)
            loss = layer(x).sum()
            loss.backward(retain_graph=again)
            if again:
                loss.backward()
            probe.end()
            row = probe.row()
            assert (row is None) == again
            assert (probe.fault() == SEEN_TWICE) == again
    assert probe.coverage is not None and not probe.coverage.missing
