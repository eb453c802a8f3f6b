"""Examples that mix in ``fit``: refused in the first step, skipped and reported later."""

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import Examples, GradientNoiseScale
from lightning_noise.probes.examples import checks
from testing.examples.mixing_cases import Attention
from testing.gans import Gan, gan_data
from testing.toys import Regression, data, fit, trainer

COUPLED = "the loss couples the examples of a batch"


class Towers(L.LightningModule):
    """Two towers under a plain loss, and from step ``coupled_from`` on under a contrastive one."""

    def __init__(self, coupled_from=0, manual=False, rate=0.1):
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(4, 6)
        self.coupled_from, self.automatic_optimization, self.rate = coupled_from, not manual, rate

    def training_step(self, batch, batch_idx):
        left, right = self.left(batch[0]), self.right(batch[0].flip(1))
        loss = (left * right).sum(1).square().mean()
        if self.global_step >= self.coupled_from:
            loss = functional.cross_entropy(left @ right.T, torch.arange(len(left)))
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def scaled():
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))


SETUPS = {
    "plain": dict,
    "accumulating": lambda: {"accumulate": 2},
    "scaled": lambda: {"plugins": [scaled()]},
    "bf16": lambda: {"precision": "bf16-mixed"},
}


@pytest.mark.parametrize("name", SETUPS)
def test_an_in_batch_contrastive_loss_is_refused_in_the_first_step(name):
    run = trainer(GradientNoiseScale(probe="examples"), **{"accumulate": 1, **SETUPS[name]()})
    fix = r"Use GradientNoiseScale\(split=2\)"
    with pytest.raises(MisconfigurationException, match=rf"{fix}: {COUPLED} "):
        run.fit(Towers(), data())
    assert run.global_step == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.lightning_module.modules())


def test_it_is_refused_under_manual_optimization():
    run = trainer(GradientNoiseScale(probe="examples"), accumulate=1)
    with pytest.raises(MisconfigurationException, match=f"Accumulate gradients .*{COUPLED}"):
        run.fit(Towers(manual=True), data())


def test_what_begins_to_mix_later_is_skipped_and_reported(monkeypatch, capsys):
    monkeypatch.setattr(checks, "CHECK_EVERY", 4)
    callback = GradientNoiseScale()
    run = fit(Towers(coupled_from=5, rate=0.0), data(), callback, accumulate=1)
    assert run.global_step == 16
    assert callback.estimate().steps == 8  # up to the next check
    assert f"skipped 8 steps: {COUPLED}" in capsys.readouterr().out


class Mixer(Regression):
    """Attention along ``dim`` of sequences as long as the batch."""

    def __init__(self, dim, own=True):
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.0))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=dim == 1)
            middle = Attention(dim) if own else layer
            self.net = nn.Sequential(nn.Linear(4, 4), middle, nn.Linear(4, 4))

    def loss(self, batch):
        return (self.net(batch[0]) - batch[0]).square().mean()


def sequences():
    draws = torch.randn(32, 8, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(draws), batch_size=8)


@pytest.mark.parametrize("own", [True, False])
def test_a_sequence_first_model_is_refused_where_the_sequence_is_as_long_as_the_batch(own):
    noise = GradientNoiseScale(probe=Examples(min_coverage=0.1))
    run = trainer(noise, accumulate=1)
    before = r"what layer '.*net\.(0|1\.self_attn)' gives .*time first"
    with pytest.raises(MisconfigurationException, match=before):
        run.fit(Mixer(dim=0, own=own), sequences())


def test_a_batch_first_model_is_not_doubted_where_the_sequence_is_as_long_as_the_batch(capsys):
    callback = GradientNoiseScale()
    fit(Mixer(dim=1), sequences(), callback, accumulate=1)
    out = capsys.readouterr().out
    assert callback.estimate().steps == 4
    assert "as many positions" not in out and "not checked" not in out


def test_several_optimizers_are_not_checked_and_that_is_said(capsys):
    fit(Gan(), gan_data(), GradientNoiseScale(), accumulate=1)
    assert capsys.readouterr().out.count("not checked whether the examples of a batch mix") == 2


class Numbered(Regression):
    """Examples are numbers 0, 1, 2, … that are looked up in a table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(64, 4)

    def loss(self, batch):
        return super().loss((self.table(batch[0]), batch[1]))


def test_examples_in_order_that_are_looked_up_are_examples():
    loader = DataLoader(TensorDataset(torch.arange(64), torch.randn(64, 1)), batch_size=4)
    callback = GradientNoiseScale()
    fit(Numbered(), loader, callback, accumulate=1)
    assert callback.estimate().steps == 16
    assert not callback.session.tracks[0].probe.coverage.missing


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_weights_and_random_state_are_bit_identical(optimizer, monkeypatch):
    monkeypatch.setattr(checks, "CHECK_EVERY", 3)
    ends = []
    for callbacks in ([], [GradientNoiseScale()]):
        L.seed_everything(3, verbose=False)
        module = Mixer(dim=1)
        module.make_optimizer = lambda p: optimizer(p, lr=0.01)
        module.net.insert(1, nn.Dropout(0.3))
        fit(module, sequences(), *callbacks, epochs=3, accumulate=1)
        ends.append([*module.parameters(), torch.random.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_warned_about_only_in_train_mode(training, capsys):
    module = Regression()
    module.net.insert(1, nn.BatchNorm1d(6).train(training))
    fit(module, data(), GradientNoiseScale(), accumulate=2)
    warned = "BatchNorm ties the examples of a micro-batch together" in capsys.readouterr().out
    assert warned == training


class Interrupts(L.Callback):
    """Ctrl-C in a validation, in which Lightning has put all modules into eval mode."""

    def on_validation_batch_start(self, trainer, module, *_):
        if not trainer.sanity_checking:
            raise KeyboardInterrupt


def test_batch_norm_is_warned_about_after_an_interrupted_validation(capsys):
    module = Regression()
    module.net.insert(1, nn.BatchNorm1d(6))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module, data(), GradientNoiseScale(), Interrupts(), val=data(), accumulate=2)
    assert "BatchNorm ties the examples of a micro-batch together" in capsys.readouterr().out
