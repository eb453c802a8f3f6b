"""Squared norms under every precision against gradients recomputed in fp64 from the same weights
and batches.
"""

import pytest
import torch

from lightning_noise import Examples, GradientNoiseScale, estimate_noise_scale
from lightning_noise.measure.skips import NOT_FINITE
from testing.launch import launch
from testing.reference import Recorder, errors, skipped
from testing.toys import Regression, data, fit
from testing.worlds.precision_world import scaler

OPTIMIZERS = {
    "frozen": lambda p: torch.optim.SGD(p, lr=0.0),
    "frozen and fused": lambda p: torch.optim.SGD(p, lr=0.0, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "fused Adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "foreach Adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
}
# how a trainer is told, and the greatest relative error of a squared norm: some units of rounding
PRECISIONS = {
    "64": ({"precision": "64-true"}, 1e-14),
    "32": ({"precision": "32-true"}, 1e-6),
    "16-mixed": ({}, 4 * 2**-10),
    "bf16-mixed": ({"precision": "bf16-mixed"}, 4 * 2**-7),
    "bf16-true": ({"precision": "bf16-true"}, 4 * 2**-7),
}
HALF = PRECISIONS["16-mixed"][1]
PROBES = {"micro_batches": ("micro_batches", 2), "examples": (Examples(exact=True), 1)}


def measured(optimizer="SGD", probe="micro_batches", width=48, **arguments):
    """The callback after two epochs, and what was recorded of every step."""
    noise, accumulate = PROBES[probe]
    callback = GradientNoiseScale(probe=noise)
    recorder = Recorder(callback)
    module = Regression(OPTIMIZERS[optimizer], width=width)
    fit(
        module, data(local_size=8), callback, recorder, epochs=2, accumulate=accumulate, **arguments
    )
    assert len(recorder.steps) == 16 // accumulate
    return callback, recorder


def worst(recorder, probe="micro_batches"):
    """Greatest relative error of a squared norm in all steps with a finite gradient."""
    found = errors(Regression(width=48), recorder.moments, [recorder.steps], probe)
    return max(found.q_small, found.q_big)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("optimizer", ["SGD", "fused Adam", "foreach Adam"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_squared_norms_are_those_of_fp64(precision, optimizer, probe):
    arguments, bound = PRECISIONS[precision]
    plugin = {"plugins": [scaler()]} if precision == "16-mixed" else {}
    _, recorder = measured(optimizer, probe, **arguments, **plugin)
    assert worst(recorder, probe) < bound


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("scale", [2.0**4, 2.0**14])
def test_the_loss_scale_is_divided_out(scale, optimizer):
    """Fused optimizers unscale inside their step, so that gradients are still scaled when callbacks
    hear of it.
    """
    _, recorder = measured(optimizer, plugins=[scaler(scale)])
    assert worst(recorder) < HALF


@pytest.mark.parametrize("optimizer", ["frozen", "frozen and fused"])
def test_two_loss_scales_agree(optimizer):
    low, high = (
        measured(optimizer, plugins=[scaler(scale)])[0].estimate() for scale in (2.0**4, 2.0**14)
    )
    assert (low.noise, low.signal) == (
        pytest.approx(high.noise, rel=0.01),
        pytest.approx(high.signal, rel=0.01),
    )
    assert low.low == pytest.approx(high.low, rel=0.01)


@pytest.mark.parametrize("optimizer", ["frozen", "fused Adam"])
def test_a_scale_that_grows_in_mid_run(optimizer):
    plugin = scaler(2.0**4, growth_interval=1, growth_factor=2.0)
    _, recorder = measured(optimizer, plugins=[plugin])
    assert plugin.scaler.get_scale() == 2.0**12  # eight steps, each doubled it
    assert worst(recorder) < HALF


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32", "16-mixed"])
def test_clipping(precision, algorithm):
    arguments = {"plugins": [scaler()]} if precision == "16-mixed" else {}
    _, recorder = measured(gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm, **arguments)
    assert worst(recorder) < PRECISIONS[precision][1]


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("optimizer", ["SGD", "fused Adam"])
def test_overflow_steps_do_not_count(optimizer, probe):
    """At 2³⁰ every gradient overflows; the scaler halves its scale in each such step until they do
    not.
    """
    callback, recorder = measured(
        optimizer, probe, plugins=[scaler(2.0**30, backoff_factor=2.0**-5)]
    )  # 25, 20, 15
    e, left = callback.estimate(), skipped(callback)
    assert (
        left == {NOT_FINITE: sum(not step.finite for step in recorder.steps)}
        and 2 < left[NOT_FINITE] < 8
    )
    assert worst(recorder, probe) < HALF
    assert e.steps == len(recorder.moments) == len(recorder.steps) - left[NOT_FINITE]
    whole = estimate_noise_scale(recorder.moments, decay=0.99)
    assert (e.noise, e.signal) == (pytest.approx(whole.noise), pytest.approx(whole.signal))


@pytest.mark.slow
def test_overflow_on_two_ranks(tmp_path):
    """Averages hold the steps that were finite on all ranks, the same on each, under both
    strategies.
    """
    results = launch("testing.worlds.precision_world:overflow", 2, tmp_path)
    for strategy, probe in (("ddp", "micro_batches"), ("ddp_noise", "ranks")):
        one, other = (result[strategy] for result in results)
        assert one["state"] == other["state"] and one["scale"] == other["scale"] < 2**30
        assert all(torch.equal(a, b) for a, b in zip(one["weights"], other["weights"], strict=True))
        trained = one["steps"]
        skipped = sum(not step.finite for step in trained)
        assert one["skipped"] == {NOT_FINITE: skipped} and 5 < skipped < len(trained) / 2
        found = errors(
            Regression(width=48),
            one["moments"],
            [result[strategy]["steps"] for result in results],
            probe,
        )
        assert found.steps == len(trained) - skipped and max(found.q_small, found.q_big) < HALF
