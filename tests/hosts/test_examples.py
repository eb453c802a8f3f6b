"""``GradientNoiseScale()`` alone, on one device with one batch a step: single examples are the
groups.
"""

import importlib.util
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import Examples, GradientNoiseScale
from testing.callbacks import IGNORE_OTHER_CALLBACKS, Stop, Watcher
from testing.problems import REGRESSION
from testing.toys import Regression, Resumable, data, fit, trainer


def frozen(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def alone(module, loader, **arguments):
    callback = GradientNoiseScale(**arguments.pop("noise", {}))
    fit(module, loader, callback, accumulate=arguments.pop("accumulate", 1), **arguments)
    return callback


class ZeroRegression(L.LightningModule):
    """Linear(2, 1) with weights 0, mean squared error against 1: the gradient of an
    example is −2x.
    """

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def training_step(self, batch, batch_idx):
        return (self.layer(batch[0]) - 1).square().mean()

    def configure_optimizers(self):
        return frozen(self.parameters())


class Sequences(Regression):
    """Several positions an example, so that norms are sketched."""

    def __init__(self, optimizer=frozen, width=16):
        super().__init__(optimizer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table, self.mix, self.norm = (
                nn.Embedding(30, width),
                nn.Linear(width, width),
                nn.LayerNorm(width),
            )
        self.net = None

    def loss(self, batch):
        hidden = self.norm(self.mix(self.table(batch[0])).tanh())
        return nn.functional.cross_entropy((hidden @ self.head()).flatten(0, 1), batch[0].flatten())

    def head(self):
        return torch.eye(16)[:, :16].repeat(1, 2)[:, :30]


def tokens(examples=48, local_size=8):
    draws = torch.randint(0, 30, (examples, 12), generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(draws), batch_size=local_size)


def test_known_answer():
    """Per example: trace 44.5, grad_sq 12.0, from one batch of four."""
    loader = DataLoader(TensorDataset(torch.tensor(REGRESSION)), batch_size=4)
    e = alone(ZeroRegression(), loader).estimate()
    assert (e.noise, e.signal) == (pytest.approx(44.5, rel=1e-6), pytest.approx(12.0, rel=1e-6))


@pytest.mark.parametrize(("local_size", "accumulate"), [(16, 1), (8, 2), (4, 4)])
def test_accumulation_changes_nothing(local_size, accumulate):
    whole = alone(Regression(frozen), data(local_size=16)).estimate()
    noise = {"probe": "examples"}
    parts = alone(
        Regression(frozen), data(local_size=local_size), accumulate=accumulate, noise=noise
    ).estimate()
    assert (parts.noise, parts.signal) == (
        pytest.approx(whole.noise, rel=1e-5),
        pytest.approx(whole.signal, rel=1e-5),
    )


def test_single_examples_as_micro_batches_give_the_same_number():
    examples = alone(Regression(frozen), data(local_size=8)).estimate()
    micro = alone(
        Regression(frozen), data(local_size=1), accumulate=8, noise={"probe": "micro_batches"}
    ).estimate()
    assert (examples.noise, examples.signal) == (
        pytest.approx(micro.noise, rel=1e-5),
        pytest.approx(micro.signal, rel=1e-5),
    )


def test_sketches_agree_with_exact_norms():
    exact = alone(Sequences(), tokens(480), noise={"probe": Examples(exact=True)}).estimate()
    sketched = alone(Sequences(), tokens(480), noise={"probe": Examples(sketches=2)}).estimate()
    assert sketched.noise != exact.noise
    assert sketched.noise == pytest.approx(exact.noise, rel=0.05)


@pytest.mark.slow
def test_digits_on_frozen_weights_agree_with_micro_batches():
    """Both probes on the same weights of a digits run, after three epochs: each inside the other's
    interval.
    """
    script = Path(__file__).parents[2] / "examples" / "digits.py"
    spec = importlib.util.spec_from_file_location("digits", script)
    digits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(digits)
    L.seed_everything(1, verbose=False)
    net = digits.DigitsNet(0.1)
    fit(net, digits.DigitsData(32), accumulate=1, epochs=3)
    net.hparams.learning_rate = 0.0
    estimates = []
    for noise, local_size, accumulate in (({}, 32, 1), ({"probe": "micro_batches"}, 8, 4)):
        callback = GradientNoiseScale(decay=0.999, **noise)
        fit(net, digits.DigitsData(local_size), callback, accumulate=accumulate, epochs=4)
        estimates.append(callback.estimate())
    examples, micro = estimates
    assert (
        examples.low < micro.noise_scale < micro.high
        and micro.low < examples.noise_scale < micro.high
    )
    assert examples.high - examples.low < micro.high - micro.low  # more groups, less noise


@pytest.mark.parametrize("noise", [{}, {"every_n_steps": 3, "per_layer": True}])
def test_gradients_weights_and_random_state_are_bit_identical(noise):
    runs = []
    for callbacks in ([], [GradientNoiseScale(**noise)]):
        L.seed_everything(3, verbose=False)
        watcher, module = Watcher(), Sequences(lambda p: torch.optim.Adam(p, lr=0.01))
        module.norm = nn.Sequential(nn.Dropout(0.3), module.norm)
        fit(module, tokens(), *callbacks, watcher, epochs=2, accumulate=1)
        runs.append([*(t for step in watcher.seen for t in step), *module.parameters()])
    assert len(runs[0]) == len(runs[1]) > 40
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@IGNORE_OTHER_CALLBACKS
def test_resume_is_exact_because_directions_are_stateless(tmp_path):
    loader = Resumable(tokens().dataset, batch_size=4)
    L.seed_everything(1, verbose=False)
    module, whole = Sequences(lambda p: torch.optim.SGD(p, lr=0.1)), GradientNoiseScale()
    start = {k: v.clone() for k, v in module.state_dict().items()}
    fit(module, loader, whole, accumulate=1, epochs=3)
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=7)
    module.load_state_dict(start)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(
            module,
            loader,
            GradientNoiseScale(),
            saver,
            Stop(30),
            accumulate=1,
            epochs=3,
            enable_checkpointing=True,
        )
    resumed = GradientNoiseScale()
    fit(
        module,
        Resumable(loader.dataset, batch_size=4),
        resumed,
        accumulate=1,
        epochs=3,
        ckpt_path=tmp_path / "step=28.ckpt",
    )
    assert resumed.state_dict() == whole.state_dict()


def test_loss_scale_and_half_precision():
    plugin = MixedPrecision(
        "16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10)
    )
    scaled = alone(
        Sequences(), tokens(), plugins=[plugin], noise={"probe": Examples(exact=True)}
    ).estimate()
    half = alone(
        Sequences(), tokens(), precision="bf16-mixed", noise={"probe": Examples(exact=True)}
    ).estimate()
    plain = alone(Sequences(), tokens(), noise={"probe": Examples(exact=True)}).estimate()
    assert scaled.steps == plain.steps == half.steps == 6
    assert scaled.noise == pytest.approx(plain.noise, rel=5e-3)
    assert half.noise == pytest.approx(plain.noise, rel=3e-2)


def test_the_choice_is_logged_with_its_reason(caplog, capsys):
    with caplog.at_level("INFO"):
        alone(Regression(), data())
    assert "probe examples, because 1 rank and no accumulation" in caplog.text
    assert (
        "probe examples: 1 rank and no accumulation, so single examples are the groups"
        in capsys.readouterr().out
    )


class RawParameter(Regression):
    """A class token: a parameter that no layer owns."""

    def __init__(self, numbers=2):
        super().__init__(frozen)
        self.token = nn.Parameter(torch.zeros(numbers))

    def loss(self, batch):
        return super().loss(batch) + self.token.sum() * batch[1].mean()


def test_what_is_not_covered_is_named_in_the_verdict(capsys):
    alone(RawParameter(), data())
    out = capsys.readouterr().out
    assert "the estimate covers" in out and "left out: token (it meets the output of mean" in out


def test_too_little_coverage_is_refused_before_the_first_step_where_the_probe_was_named():
    run = trainer(GradientNoiseScale(probe="examples"), accumulate=1)
    with pytest.raises(
        MisconfigurationException,
        match=r"covers less than min_coverage=0.9 .*\n  token \(100 parameters\)",
    ):
        run.fit(RawParameter(100), data())
    assert run.global_step == 0


class Penalised(Regression):
    """A weight penalty inside the loss: its gradient is no example's."""

    def loss(self, batch):
        return super().loss(batch) + 0.1 * self.net[0].weight.square().sum()


def test_a_weight_penalty_is_found_in_the_first_step_and_refused_where_little_is_left():
    run = trainer(GradientNoiseScale(probe="examples"), accumulate=1)
    with pytest.raises(
        MisconfigurationException, match=r"net.0.weight .*it meets the output of mean"
    ):
        run.fit(Penalised(frozen), data())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.lightning_module.modules())


def test_a_weight_penalty_is_left_out_and_named(capsys):
    callback = alone(Penalised(frozen), data(), noise={"probe": Examples(min_coverage=0.1)})
    assert "net.0.weight" in capsys.readouterr().out
    assert callback.estimate().steps == 14  # two steps: hooks of layers, then calls


class Recurrent(Regression):
    def __init__(self):
        super().__init__(frozen)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))


@pytest.mark.parametrize("noise", [{}, {"probe": "examples"}])
def test_batch_norm_is_refused_with_the_way_out(noise):
    run = trainer(GradientNoiseScale(**noise), accumulate=1)
    with pytest.raises(
        MisconfigurationException,
        match=r"(?s)BatchNorm in train mode.*net.1.*GroupNorm or LayerNorm",
    ):
        run.fit(Recurrent(), data())


def test_batch_size_fn_counts_tokens():
    sequences = alone(Sequences(), tokens(), noise={"probe": Examples(exact=True)}).estimate()
    counted = {"probe": Examples(exact=True), "batch_size_fn": lambda batch: batch[0].numel()}
    words = alone(Sequences(), tokens(), noise=counted).estimate()
    assert words.noise == pytest.approx(12 * sequences.noise) and words.signal == pytest.approx(
        sequences.signal
    )


def test_batch_size_fn_finds_the_batch_behind_another_tensor():
    class Weighted(Regression):
        def training_step(self, batch, batch_idx):
            return super().loss(batch[1:])

    x, y = data().dataset.tensors
    loader = DataLoader(
        TensorDataset(x, y),
        batch_size=8,
        collate_fn=lambda items: [torch.ones(3), *map(torch.stack, zip(*items, strict=True))],
    )
    counted = alone(
        Weighted(frozen), loader, noise={"batch_size_fn": lambda batch: len(batch[1])}
    ).estimate()
    assert counted == alone(Regression(frozen), data(local_size=8)).estimate()


def test_one_example_a_step_is_refused_with_the_way_out():
    run = trainer(GradientNoiseScale(), accumulate=1)
    with pytest.raises(
        MisconfigurationException, match=r"the batch holds one example.*batch_size of 2 or more"
    ):
        run.fit(Regression(), data(local_size=1))


def test_as_many_positions_as_examples_are_doubted_aloud(capsys):
    alone(Sequences(), tokens(local_size=12))
    assert (
        "as many positions as the batch has examples (norm, mix, table)" in capsys.readouterr().out
    )
    alone(Sequences(), tokens(local_size=8))
    assert "as many positions" not in capsys.readouterr().out


def test_validation_in_mid_epoch_leaves_it_alone():
    plain = alone(Regression(frozen), data())
    validated = alone(Regression(frozen), data(), val=data(seed=2), val_check_interval=3)
    assert plain.estimate() == validated.estimate()
