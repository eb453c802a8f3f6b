"""The callback on a real Trainer against known answers and invariances."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from lightning_noise import GradientNoiseScale, Key, estimate_noise_scale
from lightning_noise.core.moments import from_contributions
from lightning_noise.measure.skips import NO_BACKWARD, NOT_FINITE, ONE_GROUP
from testing.callbacks import Watcher
from testing.reference import skipped
from testing.toys import Regression, Summed, data, fit, rows, trainer


def measured(module, loader, **arguments):
    callback = GradientNoiseScale(**arguments.pop("noise", {}))
    fit(module, loader, callback, **arguments)
    return callback.estimate()


@pytest.mark.parametrize(
    ("inputs", "trace", "grad_sq"),
    [
        (([1.0, 4.0], [5.0, 0.5]), 28.25, 16.0),
        (([-1.0, 1.0], [1.0, -1.0]), 8.0, -2.0),
        (([1.0, 1.0], [1.0, 1.0]), 0.0, 6.0),
    ],
)
def test_known_answers(inputs, trace, grad_sq):
    e = measured(Summed(), rows(*inputs))
    assert (e.noise, e.signal, e.noise_scale) == (
        pytest.approx(trace, rel=1e-6),
        pytest.approx(grad_sq, rel=1e-6),
        None,
    )


def test_two_steps_are_averaged_before_they_are_divided():
    e = measured(
        Summed(), rows([-0.2, 3.3], [5.2, 0.7], [1.0, 4.0], [3.1, 0.1]), noise={"decay": 0.998}
    )
    assert (e.noise, e.signal) == (
        pytest.approx(27.76184184, rel=1e-6),
        pytest.approx(6.77223223, rel=1e-6),
    )


def by_hand(module, batches, accumulate):
    """The same steps by plain backward on one process, in fp64."""
    moments = []
    for start in range(0, len(batches), accumulate):
        window = batches[start : start + accumulate]
        grads = []
        for batch in window:
            module.zero_grad()
            module.loss(batch).backward()
            grads.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
        k = len(window)
        if k > 1:
            sizes = [len(batch[0]) for batch in window]
            mean = sum(grads) / k
            moments.append(
                from_contributions(
                    [float((g / k) @ (g / k)) for g in grads],
                    [1 / k] * k,
                    sizes,
                    float(mean @ mean),
                )
            )
    return estimate_noise_scale(moments, decay=0.99)


@pytest.mark.parametrize("accumulate", [2, 3, 4])
@pytest.mark.parametrize("examples", [18, 20])
def test_short_last_window_and_uneven_batches(accumulate, examples):
    """5 batches of 4 (or 4, 4, 4, 4, 2): Lightning divides the losses of a short window by the full
    K all the same.
    """
    frozen = Regression(lambda p: torch.optim.SGD(p, lr=0.0)).double()
    loader = data(examples=examples, dtype=torch.float64)
    callback = GradientNoiseScale()
    fit(frozen, loader, callback, accumulate=accumulate, precision=64)
    hand = by_hand(frozen, list(loader), accumulate)
    assert callback.estimate().noise == pytest.approx(hand.noise, rel=1e-10)
    assert callback.estimate().signal == pytest.approx(hand.signal, rel=1e-10)


def test_a_window_of_one_micro_batch_is_counted_and_said(capsys):
    callback = GradientNoiseScale()
    fit(Regression(), data(examples=20), callback, accumulate=4)
    assert skipped(callback) == {ONE_GROUP: 1}
    assert f"skipped 1 step: {ONE_GROUP.text}" in capsys.readouterr().out


def test_clipping_does_not_move_it():
    plain = measured(Regression(lambda p: torch.optim.SGD(p, lr=0.0)), data(), epochs=3)
    clipped = measured(
        Regression(lambda p: torch.optim.SGD(p, lr=0.0)), data(), epochs=3, gradient_clip_val=1e-3
    )
    assert clipped == plain


def test_gradient_penalty_in_the_forward_pass_does_not_move_it():
    class Penalised(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            torch.autograd.grad(self.loss(batch), list(self.parameters()), create_graph=True)
            return loss

    assert measured(Penalised(), data(), epochs=3) == measured(Regression(), data(), epochs=3)


def scaled_fit(scale, module=None, epochs=4, **arguments):
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))
    callback = GradientNoiseScale()
    fit(
        module or Regression(lambda p: torch.optim.SGD(p, lr=0.0)),
        data(),
        callback,
        epochs=epochs,
        plugins=[plugin],
        **arguments,
    )
    return callback


def test_loss_scale_does_not_move_it():
    low, high = scaled_fit(2.0**4).estimate(), scaled_fit(2.0**12).estimate()
    assert low.noise_scale == pytest.approx(
        high.noise_scale, rel=0.02
    )  # fp16 gradients carry three digits
    assert low.noise == pytest.approx(
        measured(Regression(lambda p: torch.optim.SGD(p, lr=0.0)), data(), epochs=4).noise, rel=0.02
    )


def test_overflow_steps_leave_the_averages_alone():
    callback = scaled_fit(2.0**26, epochs=8)
    (reason, count), e = *skipped(callback).items(), callback.estimate()
    assert reason == NOT_FINITE and 3 < count < 20
    assert e.steps + count == 64
    assert all(math.isfinite(value) for value in (e.noise, e.signal, e.noise_scale, e.low))
    assert e.noise == pytest.approx(scaled_fit(2.0**4).estimate().noise, rel=0.02)


@pytest.mark.parametrize("noise", [{}, {"every_n_steps": 3, "per_layer": True, "prog_bar": True}])
def test_gradients_weights_and_random_state_are_bit_identical(noise):
    runs = []
    for callbacks in ([], [GradientNoiseScale(**noise)]):
        L.seed_everything(3, verbose=False)
        watcher, module = Watcher(), Regression(lambda p: torch.optim.Adam(p, lr=0.01))
        module.net.insert(1, nn.Dropout(0.3))
        fit(module, data(shuffle=True), *callbacks, watcher, epochs=2, accumulate=3)
        runs.append([*(t for step in watcher.seen for t in step), *module.parameters()])
    assert len(runs[0]) == len(runs[1]) > 60
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_frozen_parameters_and_unfreezing_on_the_way():
    class Backbone(Regression):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(4, 4)
            self.net = nn.Sequential(self.backbone, *list(self.net))

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)

    callback, module = GradientNoiseScale(per_layer=2), Backbone()
    values = []

    class Look(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            values.append(callback.estimate(Key(layer="net.0")).signal)

    fit(
        module, data(), callback, Look(), BackboneFinetuning(unfreeze_backbone_at_epoch=1), epochs=3
    )
    assert math.isnan(values[0]) and math.isfinite(values[2])
    assert not any(p._backward_hooks for p in module.parameters())


def test_parameters_without_an_optimizer_do_not_count():
    class Half(Regression):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[2].parameters(), lr=0.0)

    callback = GradientNoiseScale(per_layer=2)
    fit(Half(), data(), callback)
    assert callback.estimate(Key(layer="net.0")).steps == 0
    assert callback.estimate().noise == callback.estimate(Key(layer="net.2")).noise > 0


def test_layers_add_up_to_the_whole():
    callback = GradientNoiseScale(per_layer=True)
    fit(Regression(), data(), callback, epochs=2)
    parts = [callback.estimate(Key(layer=name)) for name in ("net.0", "net.2")]
    assert sum(e.noise for e in parts) == pytest.approx(callback.estimate().noise)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_without_a_backward_pass():
    """training_step returns None for the last micro-batch of a window: no gradient can be read at
    the right moment.
    """

    class Skipping(Regression):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 3 else super().training_step(batch, batch_idx)

    callback = GradientNoiseScale()
    fit(Skipping(), data(), callback)
    assert skipped(callback) == {NO_BACKWARD: 1}
    assert callback.estimate().steps == 7


def test_accumulation_scheduler_that_begins_without():
    """Single examples measure every step; micro-batches, where asked for, those that have two."""
    callback, schedule = GradientNoiseScale(), GradientAccumulationScheduler({0: 1, 1: 4})
    fit(Regression(), data(), callback, schedule, epochs=2, accumulate=1)
    assert skipped(callback) == {} and callback.estimate().steps == 20
    callback = GradientNoiseScale(probe="micro_batches")
    run = fit(
        Regression(),
        data(),
        callback,
        GradientAccumulationScheduler({0: 1, 1: 4}),
        epochs=2,
        accumulate=1,
    )
    assert run.global_step == 16 + 4
    assert skipped(callback) == {ONE_GROUP: 16} and callback.estimate().steps == 4


def test_batch_size_fn_is_respected():
    """Counted in pairs of examples, the noise scale is half as large."""
    single = measured(Regression(), data(), epochs=4)
    pairs = measured(
        Regression(), data(), epochs=4, noise={"batch_size_fn": lambda batch: len(batch[0]) / 2}
    )
    assert pairs.noise == pytest.approx(single.noise / 2) and pairs.signal == pytest.approx(
        single.signal
    )
    dotted = measured(
        Regression(), data(), epochs=4, noise={"batch_size_fn": "testing.counts.count_pairs"}
    )
    assert dotted == pairs


@pytest.mark.parametrize(
    ("function", "unit"),
    [
        (None, "(examples"),
        ("testing.counts.count_pairs", "(pairs"),
        ("testing.counts.halves", "(units of testing.counts.halves"),
        (lambda batch: len(batch[0]), "(units of batch_size_fn"),
    ],
)
def test_the_verdict_names_the_unit(function, unit, capsys):
    measured(Regression(), data(), noise={"batch_size_fn": function})
    lines = capsys.readouterr().out.splitlines()
    value = next(line for line in lines if "noise scale: b_simple" in line)
    assert unit in value
    assert f" {unit[1:]}" in lines[0]  # the advice


@pytest.mark.parametrize("batch", ["list", "dict", "scalar first", "dataclass-like"])
def test_sizes_of_common_batches(batch):
    shape = {
        "list": lambda x, y: [x, y],
        "dict": lambda x, y: {"x": x, "y": y},
        "scalar first": lambda x, y: [torch.tensor(3.0), x, y],
        "dataclass-like": lambda x, y: [["a name", None], [x], y],
    }[batch]

    class Reshaping(Regression):
        def loss(self, batch):
            flat = (
                list(batch.values())
                if isinstance(batch, dict)
                else [t for t in batch if isinstance(t, (torch.Tensor, list))]
            )
            tensors = [t if isinstance(t, torch.Tensor) else t[0] for t in flat]
            return super().loss([t for t in tensors if isinstance(t, torch.Tensor) and t.ndim == 2])

        def training_step(self, batch, batch_idx):
            return self.loss(batch)

    examples = data().dataset
    loader = DataLoader(
        examples,
        batch_size=4,
        collate_fn=lambda items: shape(*(torch.stack(t) for t in zip(*items, strict=True))),
    )
    callback = GradientNoiseScale()
    fit(Reshaping(), loader, callback)
    assert callback.state_dict()["session"]["tallies"][""]["sizes"] == [8.0] * 8


def test_a_size_that_cannot_be_told_in_mid_run_skips_the_step():
    calls = []

    def nonsense_later(batch):
        calls.append(1)
        return len(batch[0]) if len(calls) != 7 else -1

    callback = GradientNoiseScale(batch_size_fn=nonsense_later)
    with pytest.warns(
        UserWarning,
        match=r"this step is skipped: batch_size_fn must return a finite number > 0.*-1",
    ):
        fit(Regression(), data(), callback)
    assert callback.estimate().steps == 7


def test_finite_data_set_is_noticed_after_a_whole_epoch():
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, epochs=1)
    assert callback.state_dict()["session"]["tallies"][""]["data_size"] is None
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, epochs=2)
    assert callback.state_dict()["session"]["tallies"][""]["data_size"] == 64
    assert callback.estimate().low is None or callback.estimate().low <= 64


@pytest.mark.parametrize(
    ("arguments", "size"),
    [({"limit_train_batches": 4}, None), ({"overfit_batches": 4}, 16), ({"max_steps": 20}, 64)],
)
def test_only_a_whole_epoch_tells_the_size_of_the_data(arguments, size):
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, epochs=3, accumulate=2, **arguments)
    assert callback.state_dict()["session"]["tallies"][""]["data_size"] == size


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_an_endless_data_set_is_not_finite():
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 64

        def __iter__(self):
            return iter(data().dataset)

    callback = GradientNoiseScale()
    fit(Regression(), DataLoader(Stream(), batch_size=4), callback, epochs=2)
    assert callback.state_dict()["session"]["tallies"][""]["data_size"] is None


def test_host_reads():
    """100 steps, logged 10 times: at most three reads a log, and none in other steps beyond those
    of Lightning.
    """
    reads = {}
    for name, callbacks in (("without", []), ("with", [GradientNoiseScale()])):
        count = []
        with pytest.MonkeyPatch.context() as patch:
            for method in ("item", "tolist", "__float__", "__bool__", "__int__"):
                real = getattr(torch.Tensor, method)
                patch.setattr(
                    torch.Tensor,
                    method,
                    lambda *a, real=real, **k: count.append(1) or real(*a, **k),
                )
            fit(Regression(), data(examples=800), *callbacks, log_every_n_steps=10)
        reads[name] = len(count)
    assert reads["with"] - reads["without"] <= 3 * 10


def test_no_attribute_that_lightning_would_replace():
    assert not hasattr(GradientNoiseScale(), "log") and not hasattr(
        GradientNoiseScale(), "log_dict"
    )


def test_trainer_that_validates_between_steps():
    loader = data()
    with_validation = GradientNoiseScale()
    fit(Regression(), loader, with_validation, val=data(seed=2), val_check_interval=4, epochs=2)
    assert with_validation.estimate() == measured(Regression(), loader, epochs=2)


def test_fast_dev_run_and_limits():
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, fast_dev_run=True)
    assert callback.estimate().steps == 0
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, limit_train_batches=6, overfit_batches=6)
    assert callback.estimate().steps == 3


def test_a_fit_without_a_batch_says_so(capsys):
    fit(Regression(), data(), GradientNoiseScale(), epochs=0)
    assert capsys.readouterr().out.startswith("noise scale: b_simple not measured yet")


def test_complex_parameters():
    class Complex(Regression):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.tensor([1.0 + 2.0j]))

        def loss(self, batch):
            return super().loss(batch) * self.phase.abs().square().sum()

    assert measured(Complex(), data()).noise > 0


def test_second_fit_continues_and_another_module_starts_afresh():
    callback, module, loader = GradientNoiseScale(), Regression(), data()
    run = trainer(callback, epochs=1)
    run.fit(module, loader)
    run.validate(module, loader, verbose=False)
    run.fit_loop.max_epochs = 2
    run.fit(module, loader)
    whole = GradientNoiseScale()
    fit(Regression(), loader, whole, epochs=2)
    assert callback.state_dict() == whole.state_dict()
    trainer(callback).fit(Regression(), loader)
    assert callback.estimate().steps == 8
