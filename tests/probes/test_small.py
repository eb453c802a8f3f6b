"""Gradients of small parameters: held to the end of a backward pass, and joined."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_noise.core.moments import Key
from lightning_noise.probes import small
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Context

CPU = torch.device("cpu")


class Kernels(TorchDispatchMode):
    """Counts the norms that are taken."""

    def __init__(self):
        super().__init__()
        self.norms = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.norms += func is torch.ops.aten.linalg_vector_norm.default
        return func(*args, **(kwargs or {}))


class Odd(nn.Module):
    """Parameters of many shapes, one of them too large to be held and one that is used at times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.layers = nn.ModuleList(nn.Linear(7, 7) for _ in range(5))
        self.rounded = nn.Parameter(torch.randn(7).half())
        self.kernel = nn.Parameter(torch.randn(3, 1, 7))
        self.large = nn.Parameter(torch.randn(small.SMALL + 5))
        self.rare = nn.Parameter(torch.randn(7))

    def forward(self, x, *, rare):
        for layer in self.layers:
            x = layer(x).tanh()
        x = x * self.scale + self.rounded + self.kernel.sum((0, 1))
        return (x + self.rare).sum() + self.large[:7] @ x if rare else x.sum() * self.large.sum()


def gradients_of(module, loss):
    module.zero_grad()
    loss.backward()
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.double().clone()
    module.zero_grad()
    return found


@pytest.mark.parametrize("zeroed", [True, False])
def test_all_shapes_and_types_give_the_norms_of_a_loop(zeroed):
    """Whether the first pass makes the gradients or adds to zeros, and where some get none."""
    module, probe = Odd(), MicroBatches()
    xs = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    losses = [lambda i=i: module(xs[i], rare=i == 1) / 3 for i in range(3)]
    found = [gradients_of(module, loss()) for loss in losses]
    norms = [sum(g.square().sum() for g in one.values()) for one in found]
    layer = sum(g.square().sum() for one in found for name, g in one.items() if "layers.2" in name)
    names = [name for name, _ in module.named_parameters()]
    keys = {Key(): names, Key(layer="2"): [name for name in names if "layers.2" in name]}
    if zeroed:
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
    with probe.attach(dict(module.named_parameters()), keys):
        for loss in losses:
            probe.begin(1, 1 / 3)
            loss().backward()
            probe.end()
        row = probe.row()
    # the norm of a half-precision .grad is rounded as it was accumulated
    assert float(row[0, 0]) == pytest.approx(float(3 * sum(norms)), rel=1e-6)
    assert float(row[1, 0]) == pytest.approx(float(3 * layer), rel=1e-6)
    big = sum(p.grad.double().square().sum() for p in module.parameters())
    assert float(row[0, 1]) == pytest.approx(float(big), rel=1e-6)


def test_norms_of_small_gradients_are_taken_together():
    module = nn.Sequential(*[nn.Linear(8, 8) for _ in range(50)])
    probe, kernels = MicroBatches(), Kernels()
    names = [name for name, _ in module.named_parameters()]
    with probe.attach(dict(module.named_parameters()), {Key(): names}), kernels:
        for _ in range(2):
            probe.begin(4, 0.5)
            (module(torch.ones(4, 8)).sum() / 2).backward()
            probe.end()
        probe.row()
    # chunks and their rest, for two passes and the gradient of the step
    assert kernels.norms == 6


def passes_over(module, batches, between=lambda i: None):
    """|g|² of every pass in double precision, and the row of the probe in single precision."""
    weight = 1 / len(batches)
    exact = copy.deepcopy(module).double()
    norms = []
    for x in batches:
        found = gradients_of(exact, weight * exact(x.double()).square().mean())
        norms.append(float(sum(g.square().sum() for g in found.values())))
    probe, names = MicroBatches(), [name for name, _ in module.named_parameters()]
    with probe.attach(dict(module.named_parameters()), {Key(): names}):
        for i, x in enumerate(batches):
            probe.begin(len(x), weight)
            (weight * module(x).square().mean()).backward()
            probe.end()
            between(i)
        return norms, probe.row()


def test_differences_of_many_passes_are_exact_to_single_precision():
    """The accumulated gradient is up to 64 times as large as what a pass adds."""
    torch.manual_seed(3)
    module = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    norms, row = passes_over(module, list(torch.randn(64, 4, 8)))
    # roundings of 6e-8 of the accumulated gradient, independent over 64 passes of 288 numbers
    assert float(row[0, 0]) == pytest.approx(64 * sum(norms), rel=1e-6)


def test_what_happens_to_the_gradient_between_two_passes_is_no_part_of_them():
    """As where something is added to .grad, or it is set to None, outside of begin and end."""
    torch.manual_seed(4)
    module = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])

    def between(i):
        if i == 0:
            module[0].weight.grad.add_(0.05)
        elif i == 1:
            module[1].weight.grad = None
            module[2].bias.grad = torch.full((8,), 0.07)

    norms, row = passes_over(module, list(torch.randn(4, 4, 8)), between)
    assert float(row[0, 0]) == pytest.approx(4 * sum(norms), rel=1e-6)
    big = sum(float(p.grad.double().square().sum()) for p in module.parameters())
    assert float(row[0, 1]) == pytest.approx(big, rel=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_gradient_that_is_changed_in_the_pass_is_seen_before(replicas):
    """By a hook of the user, or as DDP does it, which writes the mean over the ranks into .grad."""
    module, probe = nn.Linear(3, 1, bias=False).double(), MicroBatches()

    def reduce(parameter):
        parameter.grad.zero_()

    module.weight.register_post_accumulate_grad_hook(reduce)
    with probe.attach(dict(module.named_parameters()), {Key(): ["weight"]}, Context(replicas)):
        probe.begin(1, 1.0)
        module(torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)).sum().backward()
        probe.end()
        row = probe.row()
    assert row.tolist() == [[9.0 / replicas, 0.0, 1.0 / replicas, 1.0 / replicas**2]]


def test_nothing_is_held_when_the_pass_is_over():
    module, probe = nn.Linear(3, 1, bias=False), MicroBatches()
    seen = []
    module.weight.register_hook(lambda grad: seen.append(weakref.ref(grad)))
    with probe.attach(dict(module.named_parameters()), {Key(): ["weight"]}, Context(replicas=2)):
        for finish in (probe.end, probe.discard):
            probe.begin(1, 1.0)
            module(torch.ones(1, 3)).sum().backward()
            assert seen[-1]() is not None
            finish()
            gc.collect()
            assert seen[-1]() is None


def test_a_part_of_a_larger_tensor_is_not_kept_whole():
    """From the second pass on: the first shows whose gradient is a view."""
    module = nn.ParameterDict({"a": torch.ones(2), "b": torch.ones(3)})
    probe, bases = MicroBatches(), []
    module["a"].register_hook(lambda grad: bases.append(weakref.ref(grad._base)))
    with probe.attach(dict(module.named_parameters()), {Key(): ["a", "b"]}, Context(replicas=2)):
        for _ in range(2):
            probe.begin(1, 0.5)
            joined = torch.cat([module["a"], module["b"], torch.ones(1000)])
            (joined.square().sum() / 2).backward()
            alive = bases[-1]() is not None
            probe.end()
        row = probe.row()
    assert not alive
    assert row[0].tolist() == pytest.approx([10.0, 10.0, 0.5, 0.125])


def test_no_more_is_held_than_the_limit():
    parameters = {str(i): nn.Parameter(torch.ones(small.SMALL)) for i in range(200)}
    chosen = small.small_parameters(parameters, CPU)
    held = sum(p.numel() * p.element_size() for p in chosen.values())
    assert held == small.HELD_ON_CPU


def test_tensors_that_cannot_be_joined_are_left_alone():
    class Shard(nn.Parameter):
        pass

    parameters = {
        "plain": nn.Parameter(torch.ones(3)),
        "empty": nn.Parameter(torch.ones(0)),
        "shard": Shard(torch.ones(3)),
        "complex": nn.Parameter(torch.ones(3, dtype=torch.complex64)),
        "elsewhere": nn.Parameter(torch.ones(3, device="meta")),
    }
    assert list(small.small_parameters(parameters, CPU)) == ["plain"]


def test_gradients_whose_stack_is_not_contiguous():
    """Two convolutions of channels-last kernels: a stack keeps that order in memory."""
    module = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Conv2d(3, 3, 2))
    module = module.to(memory_format=torch.channels_last)
    tensors = [layer.weight.detach() for layer in module]
    joined = small.flat_stack(tensors)
    assert joined.shape == (2 * tensors[0].numel(),)
    wanted = sum(float(tensor.double().square().sum()) for tensor in tensors)
    assert float(joined.double().square().sum()) == pytest.approx(wanted, rel=1e-12)
