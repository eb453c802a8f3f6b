"""Faults injected into ordinary runs: steps without a loss, optimizers that evaluate twice, damaged
checkpoints.
"""

import copy

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_noise import GradientNoiseScale
from testing.adapting import adapting
from testing.reference import session, skipped
from testing.toys import Regression, data, fit, trainer


class Skipping(Regression):
    """Returns no loss from the sixth batch on."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx < 6 else None


@pytest.mark.filterwarnings("ignore:.*training_step.*returned.*None")
@pytest.mark.parametrize("probe", ["micro_batches", "examples"])
def test_steps_without_a_loss_leave_the_batch_size_as_it_was(probe, capsys):
    """Fourteen of twenty steps have no gradient, more than half of the sizes that the median is
    taken of.
    """
    callback = GradientNoiseScale(probe=probe)
    accumulate = 2 if probe == "micro_batches" else 1
    fit(Skipping(), data(examples=80 * accumulate), callback, accumulate=accumulate)
    assert f"batch size {4 * accumulate} at" in capsys.readouterr().out


class SAM(torch.optim.SGD):
    """Sharpness-aware minimization: a gradient at the weights, another at a point uphill, and a
    step by the latter.
    """

    def step(self, closure):
        loss = closure()
        with torch.no_grad():
            kept = [(p, p.clone()) for group in self.param_groups for p in group["params"]]
            for p, _ in kept:
                p.add_(p.grad, alpha=0.05)
        closure()
        with torch.no_grad():
            for p, value in kept:
                p.copy_(value)
        super().step()
        return loss


@pytest.mark.parametrize(("probe", "accumulate"), [("examples", 1), ("micro_batches", 2)])
def test_an_optimizer_that_evaluates_twice_is_counted_once(probe, accumulate, capsys):
    """At a learning rate of 0 its first evaluations are those of SGD, and so are all numbers."""
    states = []
    for kind in (SAM, torch.optim.SGD):
        callback = GradientNoiseScale(probe=probe)
        fit(
            Regression(lambda p, kind=kind: kind(p, lr=0.0)),
            data(),
            callback,
            accumulate=accumulate,
            epochs=2,
        )
        states.append(callback.state_dict()["session"])
        assert session(callback).tracks[0].optimizer_steps == 32 // accumulate and not skipped(
            callback
        )
    assert states[0] == states[1]
    assert "SAM evaluates the gradient several times per step" in capsys.readouterr().out


class Nested(Regression):
    """Fits another module in the middle of its own fit, with the same callback."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 3:
            with pytest.raises(
                MisconfigurationException, match="give the inner Trainer a callback of its own"
            ):
                fit(Regression(), data(), self.callback)


def test_a_nested_fit_is_refused_and_the_outer_one_goes_on():
    callback = GradientNoiseScale()
    fit(Nested(callback), data(), callback)
    assert callback.estimate().steps == 8


def damaged(state, how):
    state = copy.deepcopy(state)
    if how == "later version":
        state["version"] = 99
    elif how == "no session":
        del state["session"]
    elif how == "no sums":
        del state["session"]["averages"][0]["average"][0]["sums"]
    else:
        del state["adaptation"]["history"]
    return state


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("later version", "it is of version 99"),
        ("no session", "its part 'session' is missing"),
        ("no sums", "its part 'sums' is missing"),
        ("no history", "its part 'history' is missing"),
    ],
)
def test_a_damaged_state_is_refused_with_a_fix(how, reason):
    first = adapting({})
    fit(Regression(), data(), first, accumulate=1)
    second = adapting({})
    with pytest.raises(ValueError, match=f"delete checkpoint.*Reason: {reason}"):
        second.load_state_dict(damaged(first.state_dict(), how))
        fit(Regression(), data(), second, accumulate=1)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_finished_adaptive_run_resumes_from_its_last_batch(tmp_path, capsys):
    """There is nothing left to train and no loader to look at, and the verdict is that
    of the run.
    """

    def go(*callbacks, resume=None):
        noise = adapting({4: 8, 8: 16})
        arguments = {
            "epochs": 2,
            "accumulate": 1,
            "enable_checkpointing": bool(callbacks),
            "ckpt_path": resume,
        }
        fit(Regression(), data(), noise, *callbacks, **arguments)
        return noise, capsys.readouterr().out

    saver = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=1)
    noise, told = go(saver)
    assert "batch size 8 at" in told
    resumed, told_again = go(resume=tmp_path / "step=24.ckpt")
    assert told_again.split("noise scale:")[1] == told.split("noise scale:")[1]
    assert resumed.estimate() == noise.estimate()


class Once(L.Callback):
    def on_train_epoch_end(self, *_):
        raise RuntimeError("stopped by the test")


def test_a_callback_is_free_again_after_an_error():
    callback = GradientNoiseScale()
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(Regression(), data(), callback, Once())
    again = trainer(callback)
    again.fit(Regression(), data())
    assert callback.estimate().steps == 8


class Freezing(Regression):
    """Freezes its first layer in the middle of the run."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[0].requires_grad_(False)


def test_a_change_of_what_is_trained_is_reported(capsys):
    fit(Freezing(), data(shuffle=True), GradientNoiseScale(), accumulate=1, epochs=2)
    assert "the parameters that are trained changed during the run" in capsys.readouterr().out
    fit(Regression(), data(shuffle=True), GradientNoiseScale(every_n_steps=3), epochs=2)
    assert "changed during the run" not in capsys.readouterr().out
