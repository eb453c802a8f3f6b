"""Devices without float64: the CPU stands in for one, and float64 is forbidden on the way from a
batch to its row.
"""

from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from lightning_noise import Examples, GradientNoiseScale, Key, measure_noise_scale
from lightning_noise.hosts.lightning.refusals import REFUSALS
from lightning_noise.measure.pending_rows import PendingRow, PendingRows
from lightning_noise.probes.double_float import DoubleFloat
from testing.callbacks import Watcher, no_hooks
from testing.reference import Recorder, differences, errors, skipped
from testing.toys import Regression, data, fit
from testing.without_float64 import Float64Error, Forbidding, cpu_without_float64
from testing.worlds.precision_world import scaler

EXACT = 1e-12  # pairs hold 48 bits, and the fp32 norms that they sum are the same
ROUNDING = 1e-6  # of fp32
PROBES = {
    "micro_batches": (lambda: "micro_batches", 2),
    "examples": (lambda: Examples(exact=True), 1),
    "sketched": (lambda: Examples(sketches=2), 1),
    "examples of micro-batches": (lambda: Examples(), 2),
}


class Sequences(Regression):
    """Four positions per example, so that weights are sketched."""

    def __init__(self, optimizer=lambda p: torch.optim.Adam(p, lr=0.01)):
        super().__init__(optimizer, width=12)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.spread = nn.Linear(1, 4)

    def loss(self, batch):
        x, y = batch
        deep = self.net(self.spread(x.unsqueeze(2)))  # (B, 4, 1)
        return (deep.mean(1) - y).square().mean()


def measured(probe, *, forbidding=None, module=None, key=Key(), **arguments):
    """The callback, the moments of a key and the steps; without float64 if ``forbidding``."""
    make, accumulate = PROBES[probe]
    noise = {"geometry": arguments.pop("geometry", "euclidean"), "per_layer": key.layer is not None}
    callback = GradientNoiseScale(make(), **noise)
    recorder, watcher = Recorder(callback, key), Watcher()
    callbacks = [callback, recorder, watcher]
    if forbidding is not None:
        callbacks = [forbidding.before, callback, forbidding.after, recorder, watcher]
    torch.manual_seed(0)
    arguments = {"accumulate": accumulate, "epochs": 2, **arguments}
    fit(module or Sequences(), data(), *callbacks, **arguments)
    return callback, recorder, watcher


def both(probe, **arguments):
    """Recorders of a run without float64, and of one with it."""
    forbidding = Forbidding()
    with cpu_without_float64():
        callback, without, seen = measured(probe, forbidding=forbidding, **arguments)
    assert forbidding.mode.operations > 100 and not skipped(callback)
    _, wide, also = measured(probe, **arguments)
    for a, b in zip(seen.seen, also.seen, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    return without, wide


@pytest.mark.parametrize("probe", PROBES)
def test_moments_are_those_of_float64(probe):
    """Every number, and gradients, weights and random state to the last bit."""
    without, wide = both(probe)
    found = differences(without.moments, wide.moments)
    assert found.steps == len(wide.steps) > 0
    assert max(found[:2]) < EXACT


@pytest.mark.parametrize("probe", ["micro_batches", "examples"])
def test_against_gradients_recomputed_in_fp64(probe):
    forbidding = Forbidding()
    with cpu_without_float64():
        _, recorder, _ = measured(probe, forbidding=forbidding)
    found = errors(Sequences(), recorder.moments, [recorder.steps], probe)
    assert found.steps > 0 and max(found[:2]) < ROUNDING


@pytest.mark.parametrize("probe", ["micro_batches", "examples"])
def test_layers(probe):
    without, wide = both(probe, key=Key(layer="net.2"))
    assert max(differences(without.moments, wide.moments)[:2]) < EXACT


@pytest.mark.parametrize("fused", [False, True])
def test_the_metric_of_the_optimizer(fused):
    """Its step counter is on the device, where it is fused."""

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.01, fused=fused)

    arguments = {"geometry": ("euclidean", "optimizer"), "key": Key("optimizer")}
    forbidding = Forbidding()
    with cpu_without_float64():
        _, without, _ = measured(
            "micro_batches", forbidding=forbidding, module=Sequences(adam), **arguments
        )
    _, wide, _ = measured("micro_batches", module=Sequences(adam), **arguments)
    found = differences(without.moments, wide.moments)
    assert found.steps == len(wide.steps) - 1 and max(found[:2]) < ROUNDING


@pytest.mark.parametrize("probe", ["micro_batches", "examples"])
def test_a_loss_scale_is_divided_out(probe):
    without, wide = both(probe, module=None, plugins=[scaler()])
    assert max(differences(without.moments, wide.moments)[:2]) < EXACT


def test_a_step_that_overflows_is_skipped_and_counted():
    class Overflows(Sequences):
        def loss(self, batch):
            return super().loss(batch) * (1e30 if self.global_step == 3 else 1.0)

    with cpu_without_float64():
        callback, _, _ = measured(
            "micro_batches", module=Overflows(lambda p: torch.optim.SGD(p, lr=0.0))
        )
    assert skipped(callback).total() == 1 and callback.estimate().steps == 15


def test_rows_of_several_ranks_are_summed_on_the_host():
    """There a collective has float64; ``reduce`` stands for two ranks of the same."""
    seen = []

    def reduce(packed):
        seen.append((packed.dtype, packed.device.type))
        return packed * 2

    rows = PendingRows(reduce, rank=0, ranks=2)
    rows.open("")
    with cpu_without_float64():
        third = DoubleFloat.zeros((4,), torch.device("cpu")).fill_(1.0) / 3
        rows.append(PendingRow("", third, size=5.0))
        rows.count("", 5)
        flushed = rows.flush(torch.device("cpu"))
    assert seen == [(torch.float64, "cpu")]
    assert flushed.rows[0].values == pytest.approx([2 / 3] * 4, rel=1e-14)
    assert flushed.totals[""].examples == 10


@pytest.mark.parametrize("geometry", ["hessian", "gauss_newton"])
def test_a_curvature_is_refused_by_name(geometry):
    module = Regression()
    callback = GradientNoiseScale(
        geometry=geometry, loss_fn=lambda module, batch: (module.loss(batch), module.net(batch[0]))
    )
    wanted = f"geometry '{geometry}' sums its products in float64, which the cpu device does not"
    with cpu_without_float64(), pytest.raises(MisconfigurationException, match=wanted):
        fit(module, data(), callback, accumulate=4)
    assert no_hooks(module)


def test_a_pause_at_frozen_weights_is_refused():
    wanted = r"Move the module to the CPU .*sums in float64, which the cpu device does not have"
    with cpu_without_float64(), pytest.raises(ValueError, match=wanted):
        measure_noise_scale(
            nn.Linear(4, 1), data(), loss_fn=lambda m, batch: m(batch[0]).square().mean()
        )


def test_no_rule_refuses_mps():
    strategy = SingleDeviceStrategy(torch.device("mps"))
    trainer = SimpleNamespace(
        strategy=strategy,
        world_size=1,
        accumulate_grad_batches=1,
        optimizers=[torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)],
    )
    rules = [rule for rule in REFUSALS if rule.name != "two packages"]
    assert len(rules) > 3
    assert not [rule.name for rule in rules if rule.holds(trainer, Regression())]


@pytest.mark.parametrize("probe", PROBES)
def test_the_guard_stands_where_rows_are_made(probe):
    """On a device that is not known to lack float64 the same run meets it."""
    with pytest.raises(Float64Error):
        measured(probe, forbidding=Forbidding())
