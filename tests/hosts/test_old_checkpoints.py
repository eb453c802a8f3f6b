"""A state that an earlier version wrote is taken up: `states/before_sessions.json` was written
before there were sessions.
"""

import copy
import json
from pathlib import Path

import pytest

from lightning_noise import GradientNoiseScale, Key
from lightning_noise.measure.skips import NOT_FINITE
from testing.adapting import Keeper, adapting, numbered, run
from testing.reference import skipped
from testing.toys import Regression, data, fit

SAVED = json.loads((Path(__file__).parent / "states" / "before_sessions.json").read_text())
OLD_FIELDS = ("grad_sq", "trace", "b_simple", "low", "high", "resolved", "steps", "n_eff")


def expected(name):
    """The estimate that the earlier version gave when it wrote the state."""
    return dict(zip(OLD_FIELDS, SAVED["expected"][name], strict=True))


def agrees(estimate, name):
    was = expected(name)
    found = (estimate.noise, estimate.signal, estimate.low, estimate.n_eff)
    assert found == pytest.approx(
        [was[field] for field in ("trace", "grad_sq", "low", "n_eff")], rel=1e-12
    )
    assert (estimate.noise_scale, estimate.steps) == (was["b_simple"], was["steps"])


def test_averages_of_all_keys_are_taken_up():
    callback = GradientNoiseScale(geometry=("euclidean", "hessian"), per_layer=1, every_n_steps=1)
    callback.load_state_dict(SAVED["measuring"])
    fit(Regression(), data(examples=12), callback, accumulate=3, limit_train_batches=0)
    agrees(callback.estimate(), "b")
    agrees(callback.estimate(Key("hessian")), "hessian")
    agrees(callback.estimate(Key(layer="net")), "layer")


def test_skipped_steps_are_taken_up_with_their_codes():
    """The earlier version stored their texts alone."""
    state = copy.deepcopy(SAVED["measuring"])
    state["monitors"][""]["skipped"] = {"gradients were not finite (overflow)": 3}
    callback = GradientNoiseScale(geometry=("euclidean", "hessian"), per_layer=1, every_n_steps=1)
    callback.load_state_dict(state)
    fit(Regression(), data(examples=12), callback, accumulate=3, limit_train_batches=0)
    assert skipped(callback) == {NOT_FINITE: 3}
    assert "skipped 3 steps: gradients were not finite (overflow)" in str(callback.verdict())


def test_training_goes_on_from_them():
    callback = GradientNoiseScale(geometry=("euclidean", "hessian"), per_layer=1, every_n_steps=1)
    callback.load_state_dict(SAVED["measuring"])
    fit(Regression(), data(examples=120), callback, accumulate=3)
    assert callback.estimate().steps == expected("b")["steps"] + 10


def test_an_adaptive_run_goes_on_at_its_size():
    """The earlier version had decided to go from 8 to 16 at the end of its second epoch."""
    noise, module = adapting({4: 8, 8: 16}), Keeper()
    noise.load_state_dict(SAVED["adapting"])
    run(module, noise, numbered(), epochs=1)
    assert module.sizes() == [16]
    assert noise.estimate().steps == expected("adapting")["steps"] + 6
