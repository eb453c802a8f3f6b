import json
import math

import pytest
import torch
from torch import nn

from lightning_noise import Examples, Key, MicroBatches, Moments, Monitor, estimate_noise_scale
from lightning_noise.measure.skips import NO_BACKWARD, NO_ROW, NO_SIZE, NOT_FINITE, ONE_GROUP
from lightning_noise.probes.small import SMALL


def mean_estimation(
    monitor, steps, *, K=4, b=8, seed=0, dimensions=10, module=None, loss_scale=None
):
    """Loss |θ − x|²/2 with x ~ N(µ, I_10) and |θ − µ| = 1: B_simple = 10. A plain torch loop."""
    generator = torch.Generator().manual_seed(seed)
    theta = module or nn.ParameterList([nn.Parameter(torch.zeros(dimensions))])
    offset = torch.zeros(dimensions)
    offset[0] = 1.0
    with monitor.attach(dict(theta.named_parameters())):
        for _ in range(steps):
            theta.zero_grad()
            for _ in range(K):
                x = torch.randn(b, dimensions, generator=generator) + offset
                with monitor.micro_batch(size=b, weight=1 / K):
                    loss = (theta[0] - x).square().sum(dim=1).mean() / 2 / K
                    (loss * (loss_scale or 1)).backward()
            monitor.step(loss_scale=loss_scale)
        monitor.flush()
    return theta


def test_a_plain_torch_loop():
    monitor = Monitor(MicroBatches(), decay=0.9995)
    theta = mean_estimation(monitor, 600)
    e = monitor.estimate()
    assert e.low < 10 < e.high and e.steps == 600
    assert (e.high - e.low) / 10 < 0.2
    assert monitor.global_size == 32 and monitor.session.tally.examples == 600 * 32
    assert not any(p._backward_hooks for p in theta.parameters())


@pytest.mark.slow
def test_linear_regression_by_its_formula():
    """x ~ N(0, I_d), label noise s², distance δ from the optimum: B_simple = d + 1 + d·s²/|δ|²."""
    for d, s, truth in ((10, 0.0, 11.0), (20, 1.0, 41.0)):
        generator = torch.Generator().manual_seed(d)
        module = nn.Linear(d, 1, bias=False).double()
        with torch.no_grad():
            module.weight.copy_(torch.eye(d)[0])
        monitor = Monitor(MicroBatches(), decay=0.9999)
        with monitor.attach(dict(module.named_parameters())):
            for _ in range(1500):
                module.zero_grad()
                x = torch.randn(64, d, generator=generator, dtype=torch.float64)
                y = s * torch.randn(64, 1, generator=generator, dtype=torch.float64)
                for rows in range(0, 64, 16):
                    with monitor.micro_batch(size=16, weight=0.25):
                        (
                            0.25
                            * (module(x[rows : rows + 16]) - y[rows : rows + 16]).square().mean()
                            / 2
                        ).backward()
                monitor.step()
            monitor.flush()
        e = monitor.estimate(confidence=1 - 6.3e-5)  # four standard errors
        assert e.low < truth < e.high
        assert (e.high - e.low) / truth < 0.6


def test_loss_scale_does_not_move_the_number():
    plain, scaled = Monitor(MicroBatches()), Monitor(MicroBatches())
    mean_estimation(plain, 30)
    for part, scale in enumerate((2.0**4, torch.tensor(2.0**14))):
        mean_estimation(scaled, 15, seed=part, loss_scale=scale)
    both = Monitor(MicroBatches())
    for part in (0, 1):
        mean_estimation(both, 15, seed=part)
    assert scaled.estimate() == pytest.approx(both.estimate(), rel=1e-6)


def test_overflow_steps_are_dropped_and_counted():
    monitor, reference = Monitor(MicroBatches()), Monitor(MicroBatches())
    mean_estimation(reference, 10)
    mean_estimation(monitor, 10)
    mean_estimation(monitor, 3, loss_scale=math.inf)
    assert monitor.estimate() == reference.estimate()
    assert monitor.skipped == {NOT_FINITE: 3}


def test_one_group_is_skipped_and_counted():
    monitor = Monitor(MicroBatches())
    mean_estimation(monitor, 5, K=1)
    assert monitor.skipped == {ONE_GROUP: 5}
    assert monitor.estimate().steps == 0 and monitor.estimate().noise_scale is None


def test_sizes_that_cannot_be_told():
    monitor, module = Monitor(MicroBatches()), nn.Linear(2, 1)
    with monitor.attach(dict(module.named_parameters())):
        for size in (None, 0, math.nan, 4):
            for _ in range(2):
                monitor.begin(size, 0.5)
                module(torch.randn(4, 2)).mean().backward()
                monitor.end()
            monitor.step()
        monitor.flush()
    assert monitor.skipped == {NO_SIZE: 3} and monitor.estimate().steps == 1


class Silent(MicroBatches):
    """Returns no row and does not say why."""

    def row(self):
        super().row()

    def fault(self):
        return None


def test_a_probe_that_gives_no_reason_is_not_taken_for_an_overflow():
    monitor = Monitor(Silent())
    mean_estimation(monitor, 3)
    assert monitor.skipped == {NO_ROW: 3}


def test_a_step_that_was_never_finished():
    monitor, module = Monitor(MicroBatches()), nn.Linear(2, 1)
    with monitor.attach(dict(module.named_parameters())):
        monitor.begin(4, 0.5)
        module(torch.randn(4, 2)).mean().backward()
        monitor.end()
        assert monitor.session.tracks[0].in_step
        monitor.discard()
        monitor.discard()  # nothing in progress: nothing to discard
        monitor.step()
        monitor.flush()
    assert monitor.skipped == {NO_BACKWARD: 1}


def test_an_exception_abandons_the_step():
    monitor, reference = Monitor(MicroBatches()), Monitor(MicroBatches())
    mean_estimation(reference, 4)
    module = nn.ParameterList([nn.Parameter(torch.zeros(10))])
    with monitor.attach(dict(module.named_parameters())):
        with (
            pytest.raises(RuntimeError, match="out of memory"),
            monitor.micro_batch(size=8, weight=0.25),
        ):
            module[0].sum().backward()
            raise RuntimeError("out of memory")
        assert not monitor.session.tracks[0].in_step
    mean_estimation(monitor, 4)
    assert monitor.estimate() == reference.estimate()


def test_every_n_steps_hooks_only_the_measured_ones():
    monitor, hooked = Monitor(MicroBatches(), every_n_steps=3), []
    module = nn.Linear(2, SMALL)  # with a weight that is too large to be joined with others
    with monitor.attach(dict(module.named_parameters())):
        for _ in range(7):
            for _ in range(2):
                with monitor.micro_batch(size=4, weight=0.5):
                    hooked.append(bool(module.weight._backward_hooks))
                    module(torch.randn(4, 2)).mean().backward()
            monitor.step()
        assert monitor.flush() == 3
    assert hooked == [True, True, False, False, False, False] * 2 + [True, True]


def test_unfreezing_is_followed():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).double()
    module[0].requires_grad_(False)
    monitor = Monitor(
        MicroBatches(),
        keys={Key(): [n for n, _ in module.named_parameters()], Key(layer="0"): ["0.weight"]},
    )
    x = torch.randn(2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with monitor.attach(dict(module.named_parameters())):
        for frozen in (True, False, True):
            module[0].requires_grad_(not frozen)
            module.zero_grad(set_to_none=True)
            for i in range(2):
                with monitor.micro_batch(size=1, weight=0.5):
                    (module(x[i]).sum() / 2).backward()
            monitor.step()
            monitor.flush()
            seen = monitor.estimate(Key(layer="0")).signal
            assert math.isnan(seen) == (frozen and not monitor.estimate().steps > 1)


def test_replicas_and_reduction_equal_one_process():
    """Two replicas of two micro-batches, summed by hand, are four micro-batches on one process."""
    x = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module = nn.Linear(5, 2).double()
    named = dict(module.named_parameters())

    def loss(i):
        return module(x[i]).square().mean()

    one = Monitor(MicroBatches())
    with one.attach(named):
        for i in range(4):
            with one.micro_batch(size=3, weight=0.25):
                (loss(i) / 4).backward()
        one.step()
        one.flush()
    averaged = {name: p.grad.clone() for name, p in named.items()}

    tables = []
    for rank in (0, 1):
        monitor = Monitor(
            MicroBatches(),
            replicas=2,
            rank=rank,
            reduce=lambda table: tables.append(table) or table,
        )
        module.zero_grad()
        with monitor.attach(named):
            for i in (0, 1):
                with monitor.micro_batch(size=3, weight=0.5):
                    (loss(2 * rank + i) / 2).backward()
            for name, p in named.items():
                p.grad = averaged[name].clone()  # as DDP leaves it
            monitor.step()
            monitor.flush()
    first, second, examples, size, *moments = (tables[0] + tables[1]).tolist()
    assert first > 0 and second > 0 and first + second == pytest.approx(moments[0])
    assert size == examples == 12
    e = estimate_noise_scale([Moments(*moments)])
    assert (e.noise, e.signal) == (
        pytest.approx(one.estimate().noise),
        pytest.approx(one.estimate().signal),
    )


def test_state_is_exact():
    whole, first, second = (Monitor(MicroBatches(), every_n_steps=2) for _ in range(3))
    for monitor in (whole, first):
        mean_estimation(monitor, 21, seed=0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for monitor in (whole, second):
        mean_estimation(monitor, 21, seed=1)
    assert second.state_dict() == whole.state_dict()
    late = Monitor(MicroBatches(), every_n_steps=2)
    late.watch({"0": nn.Parameter(torch.zeros(2))})
    late.load_state_dict(whole.state_dict())
    assert late.state_dict() == whole.state_dict()


def test_unread_rows_can_be_forgotten_without_a_collective():
    def never(_):
        raise AssertionError("a collective after an error")

    monitor = Monitor(MicroBatches(), reduce=never)
    with monitor.attach({"p": nn.Parameter(torch.zeros(2))}):
        monitor.begin(1)
        monitor.end()
        monitor.step()
    assert monitor.pending == 1
    monitor.forget_unread()
    assert (monitor.pending, monitor.flush()) == (0, 0)


@pytest.mark.parametrize("name", ["micro_batches", "examples"])
def test_the_noise_scale_of_the_whole_lies_between_those_of_its_layers(name):
    """tr(Σ) and |G|² are sums over the layers, so that their ratio is a mean of the layers' ratios
    weighted by |G|².
    """
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    layers = {layer: [f"{layer}.weight", f"{layer}.bias"] for layer in ("0", "2", "4")}
    keys = {Key(): [each for names in layers.values() for each in names]}
    keys |= {Key(layer=layer): names for layer, names in layers.items()}
    probe = MicroBatches()
    if name == "examples":
        probe = Examples(exact=True)
        probe.bind(module)
    monitor = Monitor(probe, keys=keys, decay=0.9)  # at which one average serves all keys
    with monitor.attach(dict(module.named_parameters())):
        for _ in range(40):
            module.zero_grad()
            for _ in range(2):
                x = torch.randn(8, 6)
                with monitor.micro_batch(size=8, weight=0.5):
                    target = x[:, :3] + 0.1 * torch.randn(8, 3)
                    ((module(x) - target).square().mean() / 2).backward()
            monitor.step()
        monitor.flush()
    whole = monitor.estimate()
    parts = [monitor.estimate(Key(layer=layer)) for layer in layers]
    assert sum(part.noise for part in parts) == pytest.approx(whole.noise, rel=1e-6)
    assert sum(part.signal for part in parts) == pytest.approx(whole.signal, rel=1e-6)
    scales = [part.noise / part.signal for part in parts]
    assert all(part.signal > 0 for part in parts)
    assert min(scales) < whole.noise / whole.signal < max(scales)
