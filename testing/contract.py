"""What every probe promises, checked on a small model: `holds(make)` for a function that makes the
probe.
"""

import re

import torch
from torch import nn

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.probe import Context
from lightning_noise.probes.rows import replicated

KEYS = {Key(): ["0.weight", "0.bias", "2.weight", "2.bias"], Key(layer="0"): ["0.weight", "0.bias"]}


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def batches(count=4, size=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def step(probe, module, context=Context(), parts=None):
    """One optimizer step of equal micro-batches; its row, and the gradients that it
    leaves behind.
    """
    parts = batches() if parts is None else parts
    parameters = dict(module.named_parameters())
    with probe.attach(parameters, KEYS, context):
        row = passes(probe, module, parts)
    return row, [p.grad.clone() for p in parameters.values()]


def passes(probe, module, parts):
    module.zero_grad()
    probe.starts(0)
    for x in parts:
        probe.listen()
        loss = module(x).square().mean() / len(parts)
        probe.begin(len(x), 1 / len(parts))
        probe.watch_loss(loss)
        loss.backward()
        probe.end()
        probe.rest()
    return probe.row()


def holds(make):
    """``make(module)`` gives a fresh probe, bound to the module where it needs that."""
    rows_are_moments(make)
    nothing_is_disturbed(make)
    rows_are_partial(make)
    discarding_forgets(make)
    a_missing_row_has_a_reason(make)


def rows_are_moments(make):
    module = model()
    row, _ = step(make(module), module)
    assert row.shape == (len(KEYS), 4) and row.dtype == torch.float64 and bool(row.isfinite().all())
    assert bool((row[:, 2] > row[:, 3]).all())  # two groups or more
    assert bool(
        (row[:, 0] > row[:, 1]).all()
    )  # convexity: the mean of squares is above the square of the mean
    assert bool((row[1, :2] < row[0, :2]).all())  # a layer is a part of the whole


def nothing_is_disturbed(make):
    plain, watched = model(), model()
    plain.zero_grad()
    for x in batches():
        (plain(x).square().mean() / 4).backward()
    before = torch.get_rng_state()
    _, gradients = step(make(watched), watched)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p.grad, g) for p, g in zip(plain.parameters(), gradients, strict=True))
    assert not any(p._backward_hooks for p in watched.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())


def rows_are_partial(make):
    module = model()
    whole, _ = step(make(module), module)
    half, _ = step(make(module), module, Context(replicas=2))
    torch.testing.assert_close(half, replicated(whole, 2), rtol=1e-14, atol=0)


def discarding_forgets(make):
    module = model()
    wanted, _ = step(make(module), module)
    probe = make(module)
    with probe.attach(dict(module.named_parameters()), KEYS):
        probe.starts(0)
        probe.listen()
        probe.begin(2, 0.5)
        module(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
        probe.discard()
        found = passes(probe, module, batches())
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0)


def a_missing_row_has_a_reason(make):
    module = model()
    probe = make(module)
    with probe.attach(dict(module.named_parameters()), KEYS):
        probe.starts(0)
        assert probe.row() is None
        fault = probe.fault()
        assert isinstance(fault, Reason) and fault.severity is Severity.SKIP and fault.text
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", fault.code)
        assert passes(probe, module, batches()) is not None and probe.fault() is None
