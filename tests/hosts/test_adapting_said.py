"""What is printed where training is one epoch, ends by its number of steps, or is resumed."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_noise.adapt.adaptive_settings import WITHIN_EPOCH
from testing.adapting import Keeper, Numbered, adapting
from testing.toys import Resumable, fit


def said(capsys, **limits):
    loader = DataLoader(Numbered(2000), batch_size=4)
    fit(Keeper(), loader, adapting({4: 8, 8: 16}, within_epoch=True), accumulate=1, **limits)
    return [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("GradientNoiseScale: global size")
    ]


def test_a_change_within_the_only_epoch_is_printed_once(capsys):
    lines = said(capsys, epochs=1)
    assert [line.split(" within")[0] for line in lines] == [
        f"GradientNoiseScale: global size {s}" for s in ("4 → 8", "8 → 16")
    ]


def test_a_decision_that_comes_too_late_is_not_printed(capsys):
    assert said(capsys, epochs=2, max_steps=WITHIN_EPOCH) == []
    assert len(said(capsys, epochs=2, max_steps=WITHIN_EPOCH + 1)) == 1


class AtBorder(Resumable):
    """At the end of an epoch it starts anew."""

    def state_dict(self):
        return {"at": self.at % len(self)}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_decision_made_up_for_on_resuming_is_printed(tmp_path, capsys):
    """The checkpoint is of the last batch of an epoch: the decision at its end comes after it."""

    def lines(*callbacks, **arguments):
        loader, noise = AtBorder(Numbered(), batch_size=4), adapting({4: 8, 8: 16})
        fit(Keeper(), loader, noise, *callbacks, accumulate=1, epochs=3, **arguments)
        out = capsys.readouterr().out.splitlines()
        return [line for line in out if line.startswith("GradientNoiseScale: global size")]

    saver = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=12)
    whole = lines(saver, enable_checkpointing=True)
    assert [line.split(" (")[0].split("size ")[1] for line in whole] == [
        "4 → 8 from epoch 1 on",
        "8 → 16 from epoch 2 on",
    ]
    assert lines(ckpt_path=tmp_path / "step=36.ckpt") == whole[1:]
