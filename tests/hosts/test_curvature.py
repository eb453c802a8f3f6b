"""Geometries of curvature and of the optimizer in the callback."""

import pickle

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_noise import Decision, GradientNoiseScale, Key, MicroBatches
from lightning_noise.measure.pieces import split
from lightning_noise.probes.preconditioner import Preconditioner
from lightning_noise.probes.probe import Offer
from testing import toys
from testing.known_hessian import Endless, Still


def by_loss(module, batch):
    return module.loss(batch)


def with_outputs(module, batch):
    outputs = module.net(batch[0])
    return F.cross_entropy(outputs, batch[1]), outputs


def loader(module, examples, size):
    return DataLoader(Endless(module.population, examples), batch_size=size)


def fit_still(callback, *, examples=2400, size=4, accumulate=4, module=None, **arguments):
    module = module or Still()
    toys.fit(module, loader(module, examples, size), callback, accumulate=accumulate, **arguments)
    return module


def assert_near_truth(callback, truth):
    """Within four standard errors of GᵀHG and tr(HΣ) each, as the averages themselves give them."""
    average = callback.session.curvatures["hessian"].average
    (trace, grad_sq), spread = average.means(), average.covariance()
    assert abs(trace - truth.hessian_trace) < 4 * spread.noise**0.5
    assert abs(grad_sq - truth.hessian_grad_sq) < 4 * spread.signal**0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate", "loss_fn"),
    [(4, None), (1, by_loss), (2, by_loss)],
    ids=["micro-batches", "pieces", "pieces of the first"],
)
def test_the_truth_of_three_layers(accumulate, loss_fn):
    callback = GradientNoiseScale(
        geometry=("euclidean", "hessian"), every_n_steps=1, loss_fn=loss_fn, decay=0.999
    )
    size = 4 if accumulate == 4 else 12
    module = fit_still(callback, accumulate=accumulate, size=size, examples=size * accumulate * 250)
    assert callback.session.curvatures["hessian"].probes == 250
    assert_near_truth(callback, module.population.truth())
    assert module.steps == 250 * accumulate  # training_step was never called by us


def test_hundred_steps_apart_unless_said_otherwise():
    callback = GradientNoiseScale(geometry="hessian")
    fit_still(callback, examples=205 * 16, max_steps=205)
    assert callback.session.curvatures["hessian"].probes == 3
    assert callback.estimate().steps == 205


class OneGroup(MicroBatches):
    """A probe of the user's own, so that one micro-batch is not refused."""

    name = "one group"

    def offer(self, *_):
        return Offer("one micro-batch, as the test wants it")


def regression_with_outputs(module, batch):
    outputs = module.net(batch[0])
    return (outputs - batch[1]).square().mean(), outputs


class Seen(L.Callback):
    """Every gradient that an optimizer gets."""

    def __init__(self):
        self.gradients = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients += [p.grad.clone() for p in pl_module.parameters()]


def weights_and_random_state(*callbacks, accumulate):
    L.seed_everything(7)
    module, seen = toys.Regression(lambda p: torch.optim.Adam(p, lr=0.01)), Seen()
    module.net.insert(1, nn.BatchNorm1d(6))
    module.net.insert(2, nn.Dropout(0.2))
    toys.fit(
        module,
        toys.data(shuffle=True, examples=96, local_size=8),
        *callbacks,
        seen,
        accumulate=accumulate,
        epochs=2,
    )
    return [*module.state_dict().values(), *seen.gradients, torch.get_rng_state()]


@pytest.mark.parametrize(
    ("accumulate", "arguments"),
    [
        (4, {"geometry": ("hessian", "optimizer")}),
        (3, {"geometry": "hessian", "probe": "micro_batches"}),
        (3, {"geometry": ("hessian", "gauss_newton"), "loss_fn": regression_with_outputs}),
        (1, {"geometry": "hessian", "loss_fn": by_loss, "probe": OneGroup()}),
    ],
    ids=["geometries together", "micro-batches", "Gauss-Newton", "pieces"],
)
def test_the_run_is_the_same_to_the_last_bit(accumulate, arguments):
    """Weights, BatchNorm statistics, every gradient and the random state."""
    plain = weights_and_random_state(accumulate=accumulate)
    callback = GradientNoiseScale(every_n_steps=1, **arguments)
    measured = weights_and_random_state(callback, accumulate=accumulate)
    assert callback.session.curvatures["hessian"].probes > 4
    assert len(plain) == len(measured) and all(
        torch.equal(a, b) for a, b in zip(plain, measured, strict=True)
    )


def test_b_simple_is_untouched_by_the_products():
    found = []
    for geometry in ("euclidean", ("euclidean", "hessian")):
        for probe in ("micro_batches", "examples"):
            callback = GradientNoiseScale(probe=probe, geometry=geometry, every_n_steps=1)
            L.seed_everything(3)
            fit_still(callback, examples=480, module=Still(lr=0.01))
            found.append(callback.estimate())
    assert found[0] == found[2] and found[1] == found[3]


def test_the_loss_scale_does_not_matter():
    found = []
    for exponent in (4, 14):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**exponent)
        callback = GradientNoiseScale(geometry="hessian", every_n_steps=1)
        L.seed_everything(3)
        fit_still(
            callback,
            examples=320,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)],
            module=Still().double(),
        )
        found.append(callback.estimate(Key("hessian")))
    assert np.allclose(found[0][3:5], found[1][3:5], rtol=0.02)


@pytest.mark.slow
def test_keys_in_the_log_and_lines_in_the_verdict(tmp_path, capsys):
    callback = GradientNoiseScale(geometry=("hessian", "optimizer"), every_n_steps=1)
    module = Still(lambda p, lr: torch.optim.Adam(p, lr=lr))
    run = toys.trainer(callback, accumulate=4, logger=CSVLogger(tmp_path), log_every_n_steps=10)
    run.fit(module, loader(module, 16 * 200, 4))
    logged = run.callback_metrics
    for name in ("b_noise", "eps_max", "dl_max", "b_optimizer"):
        low, value, high = (
            float(logged[f"noise_scale/{name}{end}"]) for end in ("_low", "", "_high")
        )
        assert 0 < low < value < high
    estimate = callback.estimate(Key("hessian"))
    assert float(logged["noise_scale/hessian_grad_sq"]) == pytest.approx(estimate.signal, rel=1e-5)
    assert float(logged["noise_scale/hessian_trace"]) == pytest.approx(estimate.noise, rel=1e-5)
    assert 0 <= float(logged["noise_scale/hessian_indefinite"]) <= 1
    assert callback.estimate(Key("optimizer")).noise_scale == pytest.approx(
        float(logged["noise_scale/b_optimizer"]), rel=1e-5
    )
    said = capsys.readouterr().out
    assert "hessian: b_noise" in said and "eps_max" in said and "200 probes" in said
    assert "in the metric of the optimizer: b_optimizer" in said


class Saddle(L.LightningModule):
    """Loss (a·w₁² − b·w₂²)/2 with random a, b: curvature along the gradient is negative."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def training_step(self, batch, batch_idx):
        return (
            batch[0].mean(0) * torch.tensor([1.0, -4.0], dtype=torch.float64) * self.w.square()
        ).sum() / 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_negative_curvature_is_not_defined(capsys):
    x = 1 + 0.3 * torch.randn(1600, 2, dtype=torch.float64)
    callback = GradientNoiseScale(geometry="hessian", every_n_steps=1)
    run = toys.fit(
        Saddle(),
        DataLoader(torch.utils.data.TensorDataset(x), batch_size=4),
        callback,
        accumulate=4,
    )
    estimate, logged = callback.estimate(Key("hessian")), run.callback_metrics
    assert estimate.signal < 0 and (estimate.noise_scale, estimate.low, estimate.high) == (
        None,
        None,
        None,
    )
    absent = ("b_noise", "b_noise_low", "eps_max", "dl_max")
    assert not any(f"noise_scale/{name}" in logged for name in absent)
    assert (
        float(logged["noise_scale/hessian_grad_sq"]) < 0
        and float(logged["noise_scale/hessian_indefinite"]) == 1.0
    )
    assert "b_noise is not defined" in capsys.readouterr().out


def test_resume_continues_exactly(tmp_path):
    def run(callback, epochs, path=None):
        L.seed_everything(11)
        module = toys.Regression()
        data = toys.data(examples=96, local_size=4)
        trainer = toys.trainer(callback, accumulate=3, epochs=epochs, enable_checkpointing=False)
        trainer.fit(module, data, ckpt_path=path)
        return trainer

    arguments = {"geometry": ("hessian", "optimizer"), "every_n_steps": 3}
    whole = GradientNoiseScale(**arguments)
    run(whole, 4)
    first = GradientNoiseScale(**arguments)
    run(first, 2).save_checkpoint(tmp_path / "half.ckpt")
    second = GradientNoiseScale(**arguments)
    run(second, 4, tmp_path / "half.ckpt")
    assert second.state_dict()["session"]["averages"] == whole.state_dict()["session"]["averages"]
    assert second.estimate(Key("optimizer")) == whole.estimate(Key("optimizer"))
    again = pickle.loads(pickle.dumps(second))
    assert again.state_dict() == second.state_dict()


def test_a_short_last_window_waits_for_the_next_step():
    callback = GradientNoiseScale(geometry="hessian", every_n_steps=3)
    module = Still()
    toys.fit(
        module, loader(module, 4 * 7, 4), callback, accumulate=5, epochs=4
    )  # 5 and 2 micro-batches an epoch
    # steps 0, 3 (short: taken at 4) and 6
    assert callback.session.curvatures["hessian"].probes == 3


class Attention(L.LightningModule):
    def __init__(self, kernel=None):
        super().__init__()
        self.proj, self.out = nn.Linear(4, 12).double(), nn.Linear(4, 1).double()

    def loss(self, batch):
        q, k, v = self.proj(
            batch[0][:, None, :, None] * torch.ones(1, 1, 1, 4, dtype=torch.float64)
        ).chunk(3, -1)
        return (
            (self.out(F.scaled_dot_product_attention(q, k, v).mean((1, 2))) - batch[1])
            .square()
            .mean()
        )

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_attention_on_cpu_by_loss_fn_or_not_at_all():
    """Its fast kernel has no double backward; ``loss_fn`` is run with the one that has."""
    data = toys.data(examples=640, local_size=8, dtype=torch.float64)
    named = GradientNoiseScale(geometry="hessian", probe="micro_batches")
    with pytest.raises(MisconfigurationException, match="central differences"):
        toys.fit(Attention(), data, named, accumulate=4)
    torch.manual_seed(1)
    module = Attention()
    with_kernel = GradientNoiseScale(geometry="hessian", every_n_steps=1, loss_fn=by_loss)
    toys.fit(module, data, with_kernel, accumulate=4)
    average = with_kernel.session.curvatures["hessian"]
    assert average.probes == 19  # the first showed that there is no double backward
    assert average.estimate().noise > 0


def test_gauss_newton_in_the_callback():
    callback = GradientNoiseScale(
        geometry=("gauss_newton", "hessian"), every_n_steps=1, loss_fn=with_outputs
    )
    fit_still(callback, examples=1600)
    newton = callback.session.curvatures["gauss_newton"]
    assert newton.probes == 100 and newton.indefinite == 0.0
    assert callback.estimate(Key("gauss_newton")).noise_scale > 0


class Opaque(torch.autograd.Function):
    """tanh without a double backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Hidden(Still):
    """The same three layers, their second derivatives hidden, and as wild as wished."""

    wild = 0.0

    def loss(self, batch):
        x = batch[0]
        for part in self.net:
            x = Opaque.apply(x) if isinstance(part, nn.Tanh) else part(x)
        loss = F.cross_entropy(x, batch[1])
        return (self.wild * loss).cos() if self.wild else loss


@pytest.mark.slow
def test_central_differences_by_loss_fn():
    callback = GradientNoiseScale(geometry="hessian", every_n_steps=1, loss_fn=by_loss, decay=0.999)
    module = fit_still(callback, module=Hidden())
    assert (
        callback.session.curvatures["hessian"].probes == 149
    )  # the first step showed that there is no double backward
    assert_near_truth(callback, module.population.truth())


def test_differences_that_disagree_are_passed_over(monkeypatch):
    said = []
    monkeypatch.setattr("lightning_noise.hosts.lightning.fit.rank_zero_warn", said.append)
    module = Hidden()
    module.wild = 1e4
    callback = GradientNoiseScale(geometry="hessian", every_n_steps=1, loss_fn=by_loss)
    fit_still(callback, module=module, examples=96)
    said = [text for text in said if "shuffle" not in text]
    assert (
        callback.session.curvature.skipped == 5 and len(said) == 1 and "curvature probe" in said[0]
    )
    assert callback.estimate(Key("hessian")).steps == 0


class Counted(L.LightningModule):
    """Examples along dimension 1: no piece of the batch can be taken."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def loss(self, batch):
        return (self.w * batch).square().mean()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_refused_with_the_way_out():
    module = Still()
    data = loader(module, 64, 4)
    for arguments, accumulate, match in (
        (
            {"geometry": "hessian"},
            2,
            r"GradientNoiseScale\(split=4\): .*are 2 per step.*accumulate_grad_batches=3.*loss_fn",
        ),
        ({"geometry": ("optimizer",), "probe": "examples"}, 1, "sees none.*micro_batches"),
    ):
        with pytest.raises(MisconfigurationException, match=match):
            toys.fit(module, data, GradientNoiseScale(**arguments), accumulate=accumulate)
    with pytest.raises(MisconfigurationException, match="Adadelta"):
        toys.fit(
            Still(torch.optim.Adadelta),
            data,
            GradientNoiseScale(geometry="optimizer"),
            accumulate=2,
        )
    with pytest.raises(MisconfigurationException, match="4 pieces"):
        small = DataLoader(torch.randn(12, 2), batch_size=2)
        toys.fit(
            Counted(), small, GradientNoiseScale(geometry="hessian", loss_fn=by_loss), accumulate=2
        )
    with pytest.raises(ValueError, match=r"gauss_newton.*loss_fn"):
        GradientNoiseScale(geometry="gauss_newton")
    with pytest.raises(TypeError, match="loss_fn must be None"):
        GradientNoiseScale(loss_fn=3)
    with pytest.raises(ValueError, match=r"loss_fn='nowhere\.at_all'"):
        GradientNoiseScale(loss_fn="nowhere.at_all")


class Manual(Still):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(batch))


def test_manual_optimization_is_refused():
    module = Manual()
    with pytest.raises(MisconfigurationException, match="measure_noise_scale"):
        toys.fit(
            module, loader(module, 64, 4), GradientNoiseScale(geometry="hessian"), accumulate=1
        )


def test_pieces():
    batch = {
        "x": torch.arange(6),
        "y": (torch.arange(12).view(6, 2), "name"),
        "scale": torch.tensor(2.0),
    }
    parts = split(batch, 4)
    assert [rows for _, rows in parts] == [2, 2, 1, 1]
    assert torch.equal(torch.cat([p["x"] for p, _ in parts]), batch["x"])
    assert torch.equal(torch.cat([p["y"][0] for p, _ in parts]), batch["y"][0])
    assert parts[0][0]["y"][1] == "name" and split(batch, 7) is None and split({"n": 1}, 2) is None


# ---- the optimizer's metric ---------------------------------------------------------------------


def test_b_optimizer_against_gradients_taken_one_by_one():
    """Weights move under Adam; gᵀPg of every micro-batch and of the mean, P as it was before the
    step.
    """
    module = Still(torch.optim.Adam, lr=0.01)
    parameters, want = list(module.parameters()), []

    class Oracle(L.Callback):
        parts = []  # noqa: RUF012

        def on_before_backward(self, trainer, pl_module, loss):
            self.parts.append(torch.autograd.grad(loss, parameters, retain_graph=True))

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            diagonal = Preconditioner(optimizer)
            found = [diagonal(p) for p in parameters]
            if found[0] is not None:
                square = lambda vector: float(  # noqa: E731
                    sum((g * g * d).sum() for g, d in zip(vector, found, strict=True))
                )
                mean = [sum(g) for g in zip(*self.parts, strict=True)]
                want.append((sum(4 * square(g) for g in self.parts), square(mean)))
            self.parts.clear()

    callback = GradientNoiseScale(geometry="optimizer", probe="micro_batches")
    taken = []

    def take(reading):
        if reading.key == Key("optimizer"):
            taken.append((reading.moments.q_small, reading.moments.q_big))

    class Spy(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            callback.session.observe(take)

    toys.fit(module, loader(module, 160, 4), Oracle(), callback, Spy(), accumulate=4)
    assert len(want) == 9 and np.allclose(taken, want, rtol=1e-9)
    assert (
        callback.estimate(Key("optimizer")).steps == 9
    )  # the first step had no preconditioner yet
    assert callback.estimate().steps == 10 and not callback.session.tally.skipped


def test_sgd_is_euclidean():
    callback = GradientNoiseScale(geometry="optimizer")
    fit_still(callback, examples=480)
    assert callback.estimate(Key("optimizer")) == callback.estimate()


class Heard:
    """A policy that changes nothing and keeps what it was told."""

    def __init__(self):
        self.estimates = []

    def __call__(self, estimate, global_size):
        self.estimates.append(estimate)
        return Decision(global_size=round(global_size), reason="as it is")


@pytest.mark.parametrize("first", ["hessian", "optimizer", "euclidean"])
def test_the_first_geometry_drives_the_policy(first):
    others = [name for name in ("euclidean", "hessian", "optimizer") if name != first]
    policy, module = Heard(), Still(torch.optim.Adam)
    callback = GradientNoiseScale(
        geometry=(first, *others), every_n_steps=1, adaptive_batch_size=policy
    )
    toys.fit(module, loader(module, 480, 4), callback, accumulate=4, epochs=2)
    plain = GradientNoiseScale(geometry=(first, *others), every_n_steps=1)
    toys.fit(Still(torch.optim.Adam), loader(module, 480, 4), plain, accumulate=4)
    assert policy.estimates[0].noise == plain.estimate(Key(first)).noise
    assert first == "euclidean" or plain.estimate().noise != plain.estimate(Key(first)).noise


class Recomputing(Still):
    """Its first layer is checkpointed."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def loss(self, batch):
        x, y = batch
        x = checkpoint(self.net[0], x.clone().requires_grad_(), use_reentrant=self.reentrant)
        return F.cross_entropy(self.net[1:](x), y)


@pytest.mark.parametrize(("loss_fn", "accumulate"), [(None, 4), (by_loss, 1), (by_loss, 2)])
def test_reentrant_checkpointing_is_refused_with_the_argument_to_change(loss_fn, accumulate):
    given = {"every_n_steps": 5, "loss_fn": loss_fn, "probe": "micro_batches"}
    if accumulate == 1:
        given["probe"] = "examples"
    callback = GradientNoiseScale(geometry="hessian", **given)
    fix = r"^`GradientNoiseScale`: Pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
    with pytest.raises(MisconfigurationException, match=fix):
        fit_still(callback, module=Recomputing(reentrant=True), accumulate=accumulate, size=16)


def test_the_other_checkpointing_gives_the_same_number():
    found = []
    for module in (Recomputing(reentrant=False), Still()):
        callback = GradientNoiseScale(geometry="hessian", every_n_steps=5)
        fit_still(callback, module=module, examples=480)
        found.append(callback.estimate(Key("hessian")))
    assert found[0] == found[1]
