import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_noise.core.moments import Key, Moments
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Context
from testing.problems import EXACT, REGRESSION, linear21, zero_regression


def named(module):
    return dict(module.named_parameters())


def one_step(probe, module, losses, sizes, weights):
    """Runs the micro-batches through the probe; Moments by key."""
    module.zero_grad()
    for loss, size, weight in zip(losses, sizes, weights, strict=True):
        probe.begin(size, weight)
        (loss() * weight).backward()
        probe.end()
    row = probe.row()
    return None if row is None else [Moments(*values) for values in row.tolist()]


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_known_answers(case, scale):
    """Whatever common factor the weights have (a short last window has k/K): the same numbers, to
    1e-12 in fp64.
    """
    module, probe = case.module().double(), MicroBatches()
    batches = [torch.tensor(rows, dtype=torch.float64) for rows in case.micro_batches]
    weight = scale / len(batches)
    with probe.attach(named(module), {Key(): list(named(module))}):
        losses = [lambda x=x: case.loss(module, x) for x in batches]
        (m,) = one_step(probe, module, losses, [len(x) for x in batches], [weight] * len(batches))
    assert m.noise == pytest.approx(case.noise, abs=1e-12 * max(1, case.noise))
    assert m.signal == pytest.approx(case.signal, abs=1e-12 * max(1, abs(case.signal)))


def test_unequal_micro_batches_weighted_by_size():
    module, probe = linear21().double(), MicroBatches()
    x = torch.tensor(REGRESSION, dtype=torch.float64)
    with probe.attach(named(module), {Key(): ["weight"]}):
        losses = [lambda rows=rows: zero_regression(module, rows) for rows in (x[:1], x[1:])]
        (m,) = one_step(probe, module, losses, [1, 3], [0.25, 0.75])
    assert (m.noise, m.signal) == (
        pytest.approx(18.83333333, rel=1e-9),
        pytest.approx(18.41666667, rel=1e-9),
    )


@pytest.mark.slow
def test_every_group_counts():
    """Var(trace) over many steps is that of K groups, 2 tr(Σ²)/(K−1), not that of one group against
    the mean.
    """
    K, d, steps = 8, 30, 3000
    generator = torch.Generator().manual_seed(0)
    module, probe, traces = nn.Linear(d, 1, bias=False).double(), MicroBatches(), []
    with probe.attach(named(module), {Key(): ["weight"]}):
        for _ in range(steps):
            x = torch.randn(K, d, dtype=torch.float64, generator=generator)
            losses = [lambda x=x, i=i: module(x[i : i + 1]).sum() for i in range(K)]
            traces.append(one_step(probe, module, losses, [1] * K, [1 / K] * K)[0].noise)
    traces = torch.tensor(traces)
    theory = 2 * d / (K - 1)
    assert abs(float(traces.mean()) - d) < 4 * math.sqrt(theory / steps)
    assert abs(float(traces.var()) / theory - 1) < 4 * math.sqrt(2.6 / steps)


def test_keys_are_sums_over_their_parameters():
    module, probe = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(),
        MicroBatches(),
    )
    names = list(named(module))
    keys = {
        Key(): names,
        Key(layer="0"): names[:2],
        Key(layer="2"): names[2:],
        Key(layer="other"): ["not there"],
    }
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with probe.attach(named(module), keys):
        whole, first, last, none = one_step(
            probe, module, [lambda i=i: module(x[i]).sum() for i in range(4)], [1] * 4, [0.25] * 4
        )
    assert whole.noise == pytest.approx(first.noise + last.noise)
    assert whole.signal == pytest.approx(first.signal + last.signal)
    assert (none.q_small, none.q_big) == (0, 0)


def test_an_overflow_spoils_only_its_own_keys():
    module, probe = (
        nn.ParameterDict({"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))}),
        MicroBatches(),
    )
    with probe.attach(named(module), {Key(layer="a"): ["a"], Key(layer="b"): ["b"]}):
        losses = [
            lambda: module["a"].sum() * math.inf + module["b"].sum(),
            lambda: module["a"].sum() + module["b"].sum(),
        ]
        a, b = one_step(probe, module, losses, [1, 1], [0.5, 0.5])
    assert not a.is_finite and b.is_finite


def test_gradients_outside_the_gate_are_not_seen():
    """A gradient penalty by autograd.grad inside the step's forward pass changes nothing."""
    module, probe = linear21().double(), MicroBatches()
    x = torch.tensor(REGRESSION, dtype=torch.float64)

    def with_penalty(rows):
        torch.autograd.grad(
            module(rows).square().sum(), list(module.parameters()), create_graph=True
        )
        return zero_regression(module, rows)

    with probe.attach(named(module), {Key(): ["weight"]}):
        plain = one_step(
            probe,
            module,
            [lambda r=x[i : i + 2]: zero_regression(module, r) for i in (0, 2)],
            [2, 2],
            [0.5] * 2,
        )
        module.zero_grad()
        for rows in (x[:2], x[2:]):
            loss = with_penalty(rows) * 0.5
            probe.begin(2, 0.5)
            loss.backward()
            probe.end()
        assert [Moments(*v) for v in probe.row().tolist()] == plain


def used_twice(width):
    """A layer that is used twice, and its loss on micro-batch i with or without checkpoints."""
    generator = torch.Generator().manual_seed(2)
    shared = nn.Linear(width, width, bias=False).double()
    x = torch.randn(2, 1, width, dtype=torch.float64, generator=generator).requires_grad_()

    def losses(reentrant):
        run = (lambda h: checkpoint(shared, h, use_reentrant=True)) if reentrant else shared
        return [lambda i=i: run(run(x[i]).tanh()).sum() for i in (0, 1)]

    return shared, losses


def truth_of(shared, losses):
    probe = MicroBatches()
    with probe.attach(named(shared), {Key(): ["weight"]}):
        return one_step(probe, shared, losses(False), [1, 1], [0.5, 0.5])


def test_a_large_shared_parameter_in_two_reentrant_checkpoints():
    """Its gradient arrives in two parts: the first step is skipped and says why, from the second on
    the sum is right.
    """
    shared, losses = used_twice(width=130)
    truth, probe = truth_of(shared, losses), MicroBatches()
    with probe.attach(named(shared), {Key(): ["weight"]}):
        assert one_step(probe, shared, losses(True), [1, 1], [0.5, 0.5]) is None
        assert probe.fault().code == "gradient_in_parts" and "'weight'" in probe.fault().text
        (again,) = one_step(probe, shared, losses(True), [1, 1], [0.5, 0.5])
        assert probe.fault() is None
    assert again.q_small == pytest.approx(truth[0].q_small, rel=1e-12)
    assert again.q_big == pytest.approx(truth[0].q_big, rel=1e-12)


def test_hooks_that_hold_small_gradients_add_up_their_parts():
    """As under DDP, where ``.grad`` is reduced in the pass."""
    shared, losses = used_twice(width=3)
    truth, probe = truth_of(shared, losses), MicroBatches()
    with probe.attach(named(shared), {Key(): ["weight"]}, Context(replicas=2)):
        (found,) = one_step(probe, shared, losses(True), [1, 1], [0.5, 0.5])
        assert probe.fault() is None
    assert found.q_small * 2 == pytest.approx(truth[0].q_small, rel=1e-12)


def test_a_small_gradient_that_is_added_to_twice_in_a_pass_is_held_from_the_next_step_on():
    shared, losses = used_twice(width=3)
    truth, probe = truth_of(shared, losses), MicroBatches()
    for attachment in range(2):
        with probe.attach(named(shared), {Key(): ["weight"]}):
            if attachment == 0:
                assert one_step(probe, shared, losses(True), [1, 1], [0.5, 0.5]) is None
                assert probe.fault().code == "gradient_replaced"
            (found,) = one_step(probe, shared, losses(True), [1, 1], [0.5, 0.5])
            assert probe.fault() is None
            assert found.q_small == pytest.approx(truth[0].q_small, rel=1e-12)
            assert found.q_big == pytest.approx(truth[0].q_big, rel=1e-12)
    assert not shared.weight._backward_hooks


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_cleared_after_a_pass_was_announced(to_none):
    """The loop calls ``zero_grad`` where a pass has begun, so that gradients of the step before are
    there when it begins: the step is skipped once, and hooks see the next ones.
    """
    module, probe = nn.Linear(3, 2).double(), MicroBatches()
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def step(*, late):
        if not late:
            module.zero_grad()
        for i in range(2):
            probe.begin(4, 0.5)
            if late and i == 0:
                module.zero_grad(set_to_none=to_none)
            (module(x[i]).square().mean() / 2).backward()
            probe.end()
        row = probe.row()
        return None if row is None else row.tolist()[0]

    with probe.attach(named(module), {Key(): list(named(module))}):
        wanted = step(late=False)
        assert step(late=True) is None
        assert probe.fault().code == "gradient_replaced"
        assert step(late=True) == pytest.approx(wanted, rel=1e-12)
        assert probe.fault() is None


def test_sparse_embedding_equals_dense():
    generator, results = torch.Generator().manual_seed(3), []
    weight = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([[1, 1, 2, 7], [7, 7, 7, 0]])
    for sparse in (False, True):
        module, probe = nn.Embedding(10, 4, _weight=weight.clone(), sparse=sparse), MicroBatches()
        with probe.attach(named(module), {Key(): ["weight"]}):
            results.append(
                one_step(
                    probe,
                    module,
                    [lambda i=i: module(tokens[i]).square().sum() for i in (0, 1)],
                    [1, 1],
                    [0.5] * 2,
                )
            )
    assert results[0] == results[1]


def test_nothing_stays_behind():
    module, probe = nn.Linear(2, 2), MicroBatches()
    with (
        pytest.raises(RuntimeError, match="on the way"),
        probe.attach(named(module), {Key(): list(named(module))}, Context(replicas=2)),
    ):
        assert all(p._backward_hooks for p in module.parameters())
        raise RuntimeError("on the way")
    assert not any(p._backward_hooks for p in module.parameters())


def test_a_step_without_backward_has_no_row():
    module, probe = nn.Linear(2, 2), MicroBatches()
    assert probe.row() is None
    probe.end()
    with probe.attach(named(module), {Key(): list(named(module))}):
        assert probe.row() is None
