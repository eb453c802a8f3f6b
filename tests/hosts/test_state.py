"""Checkpoints, resume, exceptions, pickling: nothing lost and nothing left behind."""

import contextlib
import copy
import pickle
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_noise import GradientNoiseScale
from testing.callbacks import IGNORE_OTHER_CALLBACKS, Stop
from testing.toys import Regression, Resumable, data, fit, trainer


@IGNORE_OTHER_CALLBACKS
@pytest.mark.parametrize("every", ["epoch", "step"])
@pytest.mark.parametrize("noise", [{}, {"every_n_steps": 3, "per_layer": True}])
def test_resume_gives_the_numbers_of_an_uninterrupted_run(tmp_path, every, noise):
    loader = Resumable(data(examples=72).dataset, batch_size=4)
    whole = GradientNoiseScale(**noise)
    run = fit(Regression(), loader, whole, epochs=4, log_every_n_steps=3)
    saver = ModelCheckpoint(
        tmp_path,
        save_top_k=-1,
        filename="{step}",
        **({"every_n_train_steps": 13} if every == "step" else {"every_n_epochs": 1}),
    )
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(
            Regression(),
            loader,
            GradientNoiseScale(**noise),
            saver,
            Stop(49),
            enable_checkpointing=True,
            epochs=4,
        )
    newest = max(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    resumed = GradientNoiseScale(**noise)
    again = fit(
        Regression(),
        Resumable(loader.dataset, batch_size=4),
        resumed,
        epochs=4,
        ckpt_path=newest,
        log_every_n_steps=3,
    )
    assert again.global_step == run.global_step
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.estimate() == whole.estimate()


def test_state_key_is_explicit_and_the_file_loads_without_pickled_code(tmp_path):
    class Mine(GradientNoiseScale):
        pass

    assert Mine().state_key == GradientNoiseScale().state_key == "GradientNoiseScale"
    run = fit(
        Regression(),
        data(),
        Mine(),
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        max_steps=4,
    )
    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["GradientNoiseScale"]
    assert saved["session"]["averages"][0]["average"][0]["steps"] == 4


@IGNORE_OTHER_CALLBACKS
def test_a_checkpoint_from_before_the_callback_or_of_an_empty_run(tmp_path):
    run = fit(Regression(), data(), epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
    run.save_checkpoint(tmp_path / "a.ckpt")
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, epochs=2, ckpt_path=tmp_path / "a.ckpt")
    assert callback.estimate().steps == 8
    assert GradientNoiseScale().state_dict() == {} and GradientNoiseScale().estimate() is None


@pytest.mark.parametrize("batches", [3, 4])
def test_an_error_leaves_no_hook_and_loses_nothing(batches):
    module, callback = Regression(), GradientNoiseScale()
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(module, data(), callback, Stop(batches))
    assert not any(p._backward_hooks for p in module.parameters())
    assert callback.estimate().steps == batches // 2
    assert callback.state_dict()["session"]["averages"][0]["average"][0]["steps"] == batches // 2


def test_an_interrupted_run_prints_its_verdict(capsys):
    callback, handler = GradientNoiseScale(), signal.getsignal(signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(Regression(), data(), callback, Stop(8, KeyboardInterrupt))
    signal.signal(signal.SIGINT, handler)  # Lightning ignores further interrupts from then on
    assert "4 steps measured" in capsys.readouterr().out


def test_a_single_step_is_told_in_the_singular(capsys):
    fit(Regression(), data(), GradientNoiseScale(), max_steps=1)
    assert "; 1 step measured\n" in capsys.readouterr().out


def test_an_error_in_the_backward_pass_leaves_no_hook():
    class Failing(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 5:
                loss.register_hook(self.fail)
            return loss

        def fail(self, grad):
            raise RuntimeError("in the backward pass")

    module, callback = Failing(), GradientNoiseScale()
    with pytest.raises(RuntimeError, match="in the backward pass"):
        fit(module, data(), callback)
    assert not any(p._backward_hooks for p in module.parameters())
    run = trainer(callback)  # the same objects go on as if nothing had happened
    module.training_step = lambda batch, batch_idx: module.loss(batch)
    run.fit(module, data())
    assert callback.estimate().steps == 2 + 8


def test_a_second_fit_that_fails_before_its_first_batch_loses_nothing():
    class Fails(L.Callback):
        def on_train_start(self, trainer, module):
            raise RuntimeError("before the first batch")

    module, callback = Regression(), GradientNoiseScale()
    fit(module, data(), callback)
    with pytest.raises(RuntimeError, match="before the first batch"):
        fit(module, data(), callback, Fails())
    assert callback.estimate().steps == 8
    fit(module, data(), callback)
    assert callback.estimate().steps == 16


def test_after_fit_no_hook_is_left():
    module = Regression()
    fit(module, data(), GradientNoiseScale())
    assert not any(p._backward_hooks for p in module.parameters())


@pytest.mark.parametrize("fitted", [False, True])
def test_pickle_and_deepcopy(fitted):
    callback = GradientNoiseScale(per_layer=True, batch_size_fn="testing.counts.count_pairs")
    if fitted:
        fit(Regression(), data(), callback, epochs=2)
    for twin in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
        assert twin.state_dict() == callback.state_dict()
        assert twin.settings == callback.settings
