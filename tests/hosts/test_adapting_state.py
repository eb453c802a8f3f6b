"""A resumed run goes on exactly as one that was not interrupted: size, accumulation, factor,
averages, history, weights.
"""

import copy
import pickle

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_noise import GradientNoiseScale
from testing.adapting import Keeper, Numbered, adapting, numbered, run
from testing.toys import Regression, Resumable, data, fit, trainer

GROW = {4: 8, 8: 16, 16: 24, 24: 12}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings(
        "ignore:You're resuming from a checkpoint that ended before the epoch ended"
    ),
]


class Planned(Regression):
    """Asks how many steps there will be, so its loader is prepared before a late restore, and keeps
    the sizes it was given.
    """

    def __init__(self, asks=True):
        super().__init__()
        self.sizes, self.expected, self.asks = [], 5 * 24, asks

    def training_step(self, batch, batch_idx):
        self.sizes.append((self.current_epoch, len(batch[0]), self.trainer.accumulate_grad_batches))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        self.expected = self.trainer.estimated_stepping_batches if self.asks else self.expected
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Late(SingleDeviceStrategy):
    """Restores after it has set up the model, as strategies that shard it do."""

    restore_checkpoint_after_setup = True

    def __init__(self):
        super().__init__("cpu")


class Stop(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("stopped by the test")


def loader():
    return Resumable(data(examples=96).dataset, batch_size=4)


def callback():
    return adapting(GROW, max_local_size=8)  # local 4, 8, 8, 8; accumulation 1, 1, 2, 3


# name → what saves, and the step at which the run breaks off; epochs have 24, 12, 6, 4 steps
WHEN = {
    "epoch end": ({"every_n_epochs": 1}, 39),
    "in mid-epoch": ({"every_n_train_steps": 5}, 41),
    "in mid-epoch, before any change": ({"every_n_train_steps": 5}, 22),
    "validation end": ({"monitor": "val_loss"}, 39),
}


@pytest.mark.parametrize("strategy", ["auto", Late], ids=["", "late restore"])
@pytest.mark.parametrize("when", WHEN)
def test_resume_is_exact(tmp_path, when, strategy):
    asks = (
        "before any change" not in when
    )  # Lightning does not restore the state of a loader that was prepared so early
    whole, module = callback(), Planned(asks)
    fit(module, loader(), whole, epochs=5, accumulate=1, val=data(examples=8))
    saver, step = WHEN[when]
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", **saver)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(
            Planned(asks),
            loader(),
            callback(),
            saver,
            Stop(step),
            enable_checkpointing=True,
            epochs=5,
            accumulate=1,
            val=data(8),
        )
    newest = max(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    resumed, again = callback(), Planned(asks)
    strategy = strategy if strategy == "auto" else strategy()
    fit(
        again,
        loader(),
        resumed,
        epochs=5,
        accumulate=1,
        ckpt_path=newest,
        strategy=strategy,
        val=data(8),
    )
    assert module.sizes[-len(again.sizes) :] == again.sizes and len(again.sizes) < len(module.sizes)
    assert resumed.state_dict() == whole.state_dict()
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True)
    )
    assert again.expected == module.expected == 5 * 24  # schedules are planned alike


class AtBorder(Resumable):
    """At the end of an epoch it starts anew."""

    def state_dict(self):
        return {"at": self.at % len(self)}


def go_on(path, callback, step=None, examples=96):
    """Five epochs with a checkpoint after every step, or from the one at ``step``."""
    saver = (
        []
        if step
        else [ModelCheckpoint(path, save_top_k=-1, every_n_train_steps=1, filename="{step}")]
    )
    ckpt_path = path / f"step={step}.ckpt" if step else None
    module, noise = Planned(asks=False), callback()
    loader = AtBorder(data(examples).dataset, batch_size=4)
    fit(
        module,
        loader,
        noise,
        *saver,
        enable_checkpointing=not step,
        epochs=5,
        accumulate=1,
        ckpt_path=ckpt_path,
    )
    return module, noise


def test_resume_after_the_last_batch_of_an_epoch_is_exact(tmp_path):
    """From there Lightning begins the next epoch without the hooks that end the one and begin the
    other.
    """
    whole, noise = go_on(tmp_path, callback)
    for step in (24, 36, 46):  # the batch grows, accumulation takes over, it shrinks
        module, resumed = go_on(tmp_path, callback, step)
        assert whole.sizes[-len(module.sizes) :] == module.sizes and len(module.sizes) < len(
            whole.sizes
        )
        assert resumed.state_dict() == noise.state_dict()
        assert all(
            torch.equal(a, b) for a, b in zip(whole.parameters(), module.parameters(), strict=True)
        )


@pytest.mark.slow
def test_an_epoch_is_resumed_at_a_last_batch_of_one_example(tmp_path):
    _, noise = go_on(tmp_path, GradientNoiseScale, examples=97)
    module, resumed = go_on(tmp_path, GradientNoiseScale, 24, examples=97)
    assert module.sizes[0] == (0, 1, 1)
    assert resumed.state_dict() == noise.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("every", [51, 70])
def test_resume_within_an_epoch_is_exact(tmp_path, every):
    """From a checkpoint while a change waits for its windows to align, and from one after it."""
    examples = data(examples=1600).dataset

    def go(*callbacks, **arguments):
        module, noise = (
            Planned(asks=False),
            adapting({12: 16, 16: 8}, within_epoch=True, max_local_size=4),
        )
        arguments = {
            "epochs": 1,
            "accumulate": 3,
            "enable_checkpointing": bool(callbacks),
            **arguments,
        }
        fit(module, Resumable(examples, batch_size=4), noise, *callbacks, **arguments)
        return module, noise

    module, whole = go()
    assert (
        list(dict.fromkeys(accumulation for _, _, accumulation in module.sizes)) == [3, 4]
        and module.sizes[-1][2] == 3
    )
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=every)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        go(saver, Stop(every + 3))
    again, resumed = go(ckpt_path=tmp_path / f"step={every}.ckpt")
    assert (
        resumed.state_dict() == whole.state_dict()
        and module.sizes[-len(again.sizes) :] == again.sizes
    )
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True)
    )


def test_another_start_is_said_and_taken(tmp_path):
    first = run(
        Keeper(),
        adapting({4: 8, 8: 16}),
        numbered(),
        epochs=3,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    first.save_checkpoint(tmp_path / "a.ckpt")
    module, again = Keeper(), adapting({6: 12})
    with pytest.warns(
        UserWarning,
        match="adapted from a start of local size 4 .* this run begins with local size 6",
    ):
        fit(module, numbered(6), again, epochs=5, accumulate=1, ckpt_path=tmp_path / "a.ckpt")
    assert module.sizes() == [6, 12]
    assert again.state_dict()["adaptation"]["start"] == [6, 1, 1]
    with pytest.raises(
        MisconfigurationException, match="max_local_size=10 is below the loader's batch size of 16"
    ):
        again = adapting({}, max_local_size=10)
        fit(Keeper(), numbered(4), again, epochs=5, accumulate=1, ckpt_path=tmp_path / "a.ckpt")


def test_a_second_fit_goes_on_and_another_module_starts_anew():
    module, noise = Keeper(), adapting({4: 8, 8: 16})
    run(module, noise, numbered(), epochs=2)
    module.epochs.clear()
    run(module, noise, numbered(), epochs=2)
    assert module.sizes() == [16, 16]
    other = Keeper()
    run(other, noise, numbered(), epochs=2)
    assert other.sizes() == [4, 8] and noise.state_dict()["adaptation"]["history"][0][:3] == [
        0,
        4,
        24,
    ]


def test_one_trainer_fits_twice():
    module, noise = Keeper(), adapting({4: 8, 8: 16})
    again = trainer(noise, epochs=2, accumulate=1)
    loader = numbered()
    again.fit(module, loader)
    assert loader.batch_size == 4
    again.fit_loop.max_epochs = 4
    again.fit(module, loader)
    assert (
        module.sizes() == [4, 8, 16, 16]
        and module.numbers() == [list(range(96))] * 4
        and loader.batch_size == 4
    )


def test_states_of_measuring_and_adapting_runs_mix(tmp_path):
    run(
        Keeper(),
        GradientNoiseScale(),
        numbered(),
        epochs=1,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    ).save_checkpoint(tmp_path / "measuring.ckpt")
    module = Keeper()
    fit(
        module,
        numbered(),
        adapting({4: 8}),
        epochs=3,
        accumulate=1,
        ckpt_path=tmp_path / "measuring.ckpt",
    )
    assert module.sizes() == [4, 8]
    run(
        module,
        adapting({4: 8}),
        numbered(),
        epochs=2,
        enable_checkpointing=True,
        default_root_dir=tmp_path / "b",
    ).save_checkpoint(tmp_path / "adapting.ckpt")
    module = Keeper()
    fit(
        module,
        numbered(),
        GradientNoiseScale(),
        epochs=3,
        accumulate=1,
        ckpt_path=tmp_path / "adapting.ckpt",
    )
    assert module.sizes() == [4]


def test_advice_after_an_adaptive_run_is_about_the_loader_s_own_size(tmp_path, capsys):
    settings = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    run(Keeper(), adapting({4: 8}), numbered(), epochs=2, **settings).save_checkpoint(
        tmp_path / "a.ckpt"
    )
    module, noise = Keeper(), adapting({4: 12}, advise_only=True)
    fit(module, numbered(), noise, epochs=4, accumulate=1, ckpt_path=tmp_path / "a.ckpt")
    assert (
        module.sizes() == [4, 4]
        and "advice: global size 4 → 12, learning-rate factor" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "twin", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_pickle_and_deepcopy(twin):
    noise = GradientNoiseScale(adaptive_batch_size=True)
    run(Keeper(), noise, numbered(), epochs=2)
    assert twin(noise).state_dict() == noise.state_dict() and twin(noise).settings == noise.settings


def test_checkpoints_hold_plain_values(tmp_path):
    fitted = run(
        Keeper(),
        adapting({4: 8}),
        numbered(),
        epochs=2,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    fitted.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["GradientNoiseScale"]
    assert saved["adaptation"]["current"] == [8, 1, 1] and Numbered(2)[1][1] == 1
