"""What is printed where training is one epoch, or ends by its number of steps."""

from torch.utils.data import DataLoader

from lightning_noise.hosts.lightning.adapter import STEPS_BETWEEN
from testing.adapting import Keeper, Numbered, adapting
from testing.toys import fit


def said(capsys, **limits):
    loader = DataLoader(Numbered(2000), batch_size=4)
    fit(Keeper(), loader, adapting({4: 8, 8: 16}, within_epoch=True), accumulate=1, **limits)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("GradientNoiseScale: global size")]


def test_a_change_within_the_only_epoch_is_printed_once(capsys):
    lines = said(capsys, epochs=1)
    assert [line.split(" as soon")[0] for line in lines] == [
        f"GradientNoiseScale: global size {s}" for s in ("4 → 8", "8 → 16")
    ]


def test_a_decision_that_comes_too_late_is_not_printed(capsys):
    assert said(capsys, epochs=2, max_steps=STEPS_BETWEEN) == []
    assert len(said(capsys, epochs=2, max_steps=STEPS_BETWEEN + 1)) == 1
