"""Manual optimization with one and several optimizers: each has a noise scale of its own, equal to
a loop written by hand.
"""

import copy
import warnings

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_noise import Examples, GradientNoiseScale, Key, estimate_noise_scale
from lightning_noise.core.reasons import Severity
from lightning_noise.measure.skips import NOT_FINITE, ONE_GROUP
from testing.gans import Gan, Joint, Wrong, by_hand, gan_data
from testing.reference import probes, skipped
from testing.toys import Regression, data, fit

G, D = Key(optimizer="Adam"), Key(optimizer="Adam-1")


def run_gan(module, loader, probe="auto", **arguments):
    callback = GradientNoiseScale(probe=probe)
    return callback, fit(module, loader, callback, accumulate=1, **arguments)


def same(estimate, moments, rel=1e-9):
    hand = estimate_noise_scale(moments, decay=0.99)
    assert (estimate.steps, estimate.resolved) == (hand.steps, hand.resolved)
    for name in ("noise", "signal"):
        assert getattr(estimate, name) == pytest.approx(getattr(hand, name), rel=rel), name


@pytest.mark.parametrize("zero", [{}, {"set_to_none": False}], ids=["none", "zeros"])
@pytest.mark.parametrize("toggle", [True, False])
@pytest.mark.parametrize("order", ["gd", "dg"])
def test_gan_equals_the_hand_loop_with_single_examples(order, toggle, zero):
    """In the untoggled one the generator's backward pass leaves gradients on the discriminator: the
    last pass wins.
    """
    module, loader = (
        Gan(order=order, toggle=toggle, zero=zero).double(),
        gan_data(dtype=torch.float64),
    )
    hand = by_hand(copy.deepcopy(module), loader)
    callback, _ = run_gan(module, loader, probe=Examples(exact=True), precision=64)
    same(callback.estimate(G), hand["g"])
    same(callback.estimate(D), hand["d"])
    assert callback.estimate() is None


@pytest.mark.parametrize("accumulate", [2, 3])
def test_gan_equals_the_hand_loop_with_accumulated_batches(accumulate):
    """Gradients of K batches add up between zero_grad and step; the last batch is shorter (92 = 11
    · 8 + 4).
    """
    module, loader = Gan(accumulate=accumulate).double(), gan_data(examples=92, dtype=torch.float64)
    hand = by_hand(copy.deepcopy(module), loader, groups="batches")
    callback, _ = run_gan(module, loader, probe="micro_batches", precision=64)
    same(callback.estimate(G), hand["g"])
    same(callback.estimate(D), hand["d"])


def test_single_examples_of_accumulated_batches():
    module, loader = Gan(accumulate=2).double(), gan_data(dtype=torch.float64)
    hand = by_hand(copy.deepcopy(module), loader)
    callback, _ = run_gan(module, loader, probe=Examples(exact=True), precision=64)
    same(callback.estimate(G), hand["g"])
    same(callback.estimate(D), hand["d"])


def test_several_steps_of_one_optimizer_a_batch(capsys):
    """As in WGAN; the examples of a batch count once, so the size of the data set is right."""
    module, loader = Gan(critic_steps=3).double(), gan_data(dtype=torch.float64)
    hand = by_hand(copy.deepcopy(module), loader)
    callback, _ = run_gan(module, loader, probe=Examples(exact=True), precision=64)
    same(callback.estimate(D), hand["d"])
    tallies = callback.state_dict()["session"]["tallies"]
    assert callback.estimate(D).steps == 18 and (
        tallies["Adam"]["examples"],
        tallies["Adam-1"]["examples"],
    ) == (48, 48)
    said = capsys.readouterr().out
    assert (
        "Adam-1 stepped several times within one batch: the number holds if" in said
        and "Adam stepped several" not in said
    )


def test_the_second_of_several_epochs_knows_the_size_of_the_data_set():
    callback, _ = run_gan(Gan(critic_steps=2), gan_data(), epochs=2)
    assert [
        state["data_size"] for state in callback.state_dict()["session"]["tallies"].values()
    ] == [48, 48]


def test_every_third_step_of_each_optimizer():
    module, loader = Gan().double(), gan_data(examples=96, dtype=torch.float64)
    hand = by_hand(copy.deepcopy(module), loader)
    callback = GradientNoiseScale(probe=Examples(exact=True), every_n_steps=3)
    fit(module, loader, callback, accumulate=1, precision=64)
    same(callback.estimate(G), hand["g"][::3])
    same(callback.estimate(D), hand["d"][::3])


def test_one_backward_pass_for_two_optimizers_without_common_parameters():
    """Actor and critic on one loss: each scale is that of its own parameters."""
    module, loader = Joint().double(), data(dtype=torch.float64)
    start = copy.deepcopy(module)
    callback = GradientNoiseScale(probe=Examples(exact=True))
    fit(module, loader, callback, accumulate=1, precision=64, limit_train_batches=1)
    x, y = next(iter(loader))
    critic = []
    for i in range(len(x)):
        start.zero_grad()
        start.losses((x[i : i + 1], y[i : i + 1])).backward()
        critic.append(torch.cat([p.grad.flatten() for p in start.critic.parameters()]))
    trace = torch.stack(critic).var(dim=0).sum()
    assert callback.estimate(Key(optimizer="Adam")).noise == pytest.approx(float(trace), rel=1e-9)
    assert callback.estimate(Key(optimizer="SGD")).noise > 0


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (
            "two passes",
            "two backward passes over one batch .* one step of Adam-1.* call manual_backward once",
        ),
        ("zeroed in part", "the gradient of Adam-1 was zeroed in part"),
        (
            "loss.backward",
            r"no backward pass was seen before the step of Adam-1.*self\.manual_backward\(loss\)",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_by_name_in_the_first_step(way, message):
    module = Wrong(way)
    with pytest.raises(MisconfigurationException, match=message):
        run_gan(module, gan_data(), probe="examples")
    assert not any(p._backward_hooks for p in module.parameters())


def test_a_gradient_that_is_never_zeroed_is_passed_over_and_said(capsys):
    callback, _ = run_gan(Wrong("not zeroed"), gan_data())
    (reason,) = skipped(callback, "Adam-1")
    assert (reason.code, reason.severity) == ("not_zeroed", Severity.SKIP)
    assert callback.estimate(D).steps == 1  # the first, whose gradient was its own
    assert "skipped 5 steps: the gradient of Adam-1 was not zeroed" in capsys.readouterr().out


def test_one_backward_pass_for_two_steps_that_share_parameters():
    with pytest.raises(
        MisconfigurationException,
        match=r"Adam steps on a backward pass that SGD has stepped on.*share",
    ):
        fit(Joint(shared=True), data(), GradientNoiseScale(probe="examples"), accumulate=1)


def test_optimizers_that_share_parameters_may_step_on_passes_of_their_own():
    class Alternating(Joint):
        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.losses(batch))
                optimizer.step()

    callback = GradientNoiseScale()
    fit(Alternating(shared=True), data(), callback, accumulate=1)
    assert (
        callback.estimate(Key(optimizer="Adam")).steps
        == callback.estimate(Key(optimizer="SGD")).steps
        == 16
    )


def test_groups_of_one_are_counted(capsys):
    callback, _ = run_gan(Gan(), gan_data(), probe="micro_batches")
    assert skipped(callback, "Adam") == {ONE_GROUP: 6}
    assert f"skipped 6 steps: {ONE_GROUP.text}" in capsys.readouterr().out


def test_examples_that_a_layer_mixes_fall_back_on_accumulated_batches():
    class Normalising(Gan):
        def __init__(self):
            super().__init__(accumulate=2)
            self.generator.append(torch.nn.BatchNorm1d(4))

    callback, _ = run_gan(Normalising(), gan_data())
    assert probes(callback) == ["micro_batches", "micro_batches"]
    assert "single examples cannot be told apart" in callback.session.tracks[0].offer.reason
    assert callback.estimate(G).steps == callback.estimate(D).steps == 3


class OneByHand(Regression):
    """One optimizer, stepping by itself."""

    def __init__(self, use_closure=False, **arguments):
        super().__init__(**arguments)
        self.automatic_optimization = False
        self.use_closure = use_closure

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))

        if self.use_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


@pytest.mark.parametrize("use_closure", [False, True])
def test_one_optimizer_by_hand_equals_automatic_optimization(use_closure):
    """With the plain log keys, at the log interval."""
    by_hand, automatic = GradientNoiseScale(), GradientNoiseScale()
    run = fit(OneByHand(use_closure), data(), by_hand, accumulate=1, log_every_n_steps=4)
    other = fit(Regression(), data(), automatic, accumulate=1, log_every_n_steps=4)
    assert by_hand.estimate() == automatic.estimate()
    mine, theirs = (
        {k: v for k, v in r.callback_metrics.items() if k.startswith("noise_scale")}
        for r in (run, other)
    )
    assert mine == theirs and "noise_scale/b_simple_low" in mine


def test_clipping_and_loss_scaling_change_nothing():
    """The gradient is read before the module clips it, and in the loss scale of its own backward
    pass.
    """

    def clip(module, optimizer):
        module.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")

    found = []
    for scale in (None, 2.0**4, 2.0**14):
        plugin = scale and MixedPrecision(
            "16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale)
        )
        for before_step in (None, clip):
            callback, _ = run_gan(
                Gan(before_step=before_step, lr=0.0),
                gan_data(),
                **({"plugins": plugin} if scale else {}),
            )
            found.append((callback.estimate(G).noise, callback.estimate(D).noise))
    plain, *rest = found
    for values in rest:
        assert values == pytest.approx(plain, rel=2e-2)  # half precision
    for unclipped, clipped in zip(found[::2], found[1::2], strict=True):
        assert clipped == pytest.approx(unclipped, rel=1e-12)


def test_overflow_is_passed_over_for_the_optimizer_that_had_it():
    plugin = MixedPrecision(
        "16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**40)
    )
    callback, run = run_gan(Gan(), gan_data(), plugins=plugin)
    for key in (G, D):
        assert skipped(callback, key.optimizer) == {NOT_FINITE: 6}
        assert callback.estimate(key).steps == 0
    assert not [
        k for k in run.callback_metrics if k.startswith("noise_scale") and k.endswith("b_simple")
    ]


def test_weights_gradients_and_random_state_are_what_they_would_be():
    modules = []
    for callbacks in ([], [GradientNoiseScale()]):
        torch.manual_seed(11)
        module = Gan(order="gd", toggle=False)
        fit(module, gan_data(), *callbacks, accumulate=1)
        modules.append((module, torch.get_rng_state()))
    (one, state), (two, other) = modules
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(
        torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), two.parameters(), strict=True)
    )
    assert torch.equal(state, other)


def test_keys_in_the_log_and_the_verdict_name_the_optimizer(tmp_path, capsys):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_gan(Gan(), gan_data(examples=400), logger=logger, log_every_n_steps=10)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    for name in ("Adam", "Adam-1"):
        for value in (
            "b_simple",
            "b_simple_low",
            "grad_sq",
            "trace",
            "global_size",
            "learning_rate",
            "temperature",
        ):
            assert f"noise_scale/{name}/{value}" in tags
        assert f"noise_scale_band/{name}/log10" in tags
    assert not [tag for tag in tags if tag in ("noise_scale/b_simple", "noise_scale/trace")]
    out = capsys.readouterr().out
    assert "noise scale: b_simple of Adam " in out and "noise scale: b_simple of Adam-1 " in out


def test_resumed_runs_and_a_second_fit_go_on_for_each_optimizer(tmp_path):
    loader, whole = gan_data(examples=96), GradientNoiseScale(probe=Examples(exact=True))
    fit(Gan(), loader, whole, accumulate=1, epochs=2)
    first = GradientNoiseScale(probe=Examples(exact=True))
    run = fit(Gan(), loader, first, accumulate=1, epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    second = GradientNoiseScale(probe=Examples(exact=True))
    fit(Gan(), loader, second, accumulate=1, epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert [second.estimate(key) for key in (G, D)] == [whole.estimate(key) for key in (G, D)]
