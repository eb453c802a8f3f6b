"""The flag itself: what is refused, logged, printed and told; the learning rate; the averages; the
probe.
"""

import csv
import logging
from itertools import pairwise
from pathlib import Path

import jsonargparse
import lightning as L
import pytest
import pytorch_lightning as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_noise import (
    AdaptiveBatchSize,
    BatchSizeRamp,
    ByExamples,
    Decision,
    ExchangeRate,
    GradientNoiseScale,
    Key,
    LeastTime,
    NoiseEstimate,
    TrackNoiseScale,
)
from lightning_noise.adapt.adaptive_settings import adaptive_settings
from lightning_noise.adapt.learning_rate import learning_rate_factor
from lightning_noise.core.estimate import repeats_dominate
from testing.adapting import Keeper, Numbered, Script, adapting, numbered, run
from testing.toys import Regression, data, fit
from testing.worlds.twin_worlds import TwinRegression

GROW = {4: 8, 8: 16}


# ---- what is refused ----------------------------------------------------------------------------


class Lengths(BatchSampler):
    """Batches by a rule of its own."""


class ByHand(Keeper):
    def __init__(self, optimizers=1):
        super().__init__()
        self.automatic_optimization, self.optimizers_wanted = False, optimizers

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()

    def configure_optimizers(self):
        parts = (
            [list(self.parameters())]
            if self.optimizers_wanted == 1
            else [[p] for p in self.parameters()]
        )
        return [torch.optim.SGD(part, lr=0.1) for part in parts]


def batches():
    return DataLoader([(torch.ones(4, 2), torch.ones(4)) for _ in range(6)], batch_size=None)


class Batches:
    """An iterable of batches, which Lightning takes as a loader."""

    def __iter__(self):
        return iter([(torch.ones(4, 2), torch.ones(4)) for _ in range(6)])

    def __len__(self):
        return 6


def own_rules():
    return DataLoader(Numbered(), batch_sampler=Lengths(RandomSampler(Numbered()), 4, False))


REFUSED = {
    "batch_size=None": (
        Keeper,
        batches,
        {},
        r"DataLoader\(batch_size=None\) leaves batches to the data set",
    ),
    "no DataLoader": (Keeper, Batches, {}, "Batches is not a torch DataLoader"),
    "batch sampler": (
        Keeper,
        own_rules,
        {},
        "the batch sampler Lengths composes batches by rules of its own",
    ),
    "overfit": (
        Keeper,
        numbered,
        {"overfit_batches": 2},
        r"overfit_batches=2\) trains on a number of batches",
    ),
    "scheduler": (
        Keeper,
        numbered,
        {"before": [GradientAccumulationScheduler({2: 2})]},
        "GradientAccumulationScheduler sets accumulate_grad_batches",
    ),
    "too large": (
        Keeper,
        lambda: numbered(10),
        {},
        "max_local_size=9 is below the loader's batch size of 10",
    ),
}


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_up_front_with_the_reason_and_the_way_out(name):
    module, loader, arguments, text = REFUSED[name]
    module = module()
    with pytest.raises(MisconfigurationException, match=f"(?s){text}.*advise_only=True") as caught:
        run(module, adapting(GROW, max_local_size=9), loader(), **arguments)
    assert str(caught.value).startswith("`GradientNoiseScale(adaptive_batch_size=...)`: ")
    assert module.epochs == {}
    if name not in ("too large", "overfit", "scheduler"):
        run(
            Keeper(), adapting(GROW, advise_only=True), loader(), epochs=1
        )  # advice needs no hold of the loaders


def test_pytorch_lightning():
    """The twin package: its loaders change, its scheduler is refused."""
    callback = adapting({4: 16})
    fit(TwinRegression(), data(), callback, package=pl, accumulate=1, epochs=2)
    assert [period[1:3] for period in callback.state_dict()["adaptation"]["history"]] == [
        [4, 16],
        [16, 4],
    ]
    with pytest.raises(
        MisconfigurationException,
        match="GradientAccumulationScheduler sets accumulate_grad_batches",
    ):
        fit(
            TwinRegression(),
            data(),
            adapting({}),
            pl.callbacks.GradientAccumulationScheduler({0: 2}),
            package=pl,
            accumulate=1,
        )


def test_manual_optimization_and_several_optimizers_are_refused():
    with pytest.raises(
        MisconfigurationException,
        match=r"(?s)the module itself decides when it steps.*advise_only=True",
    ):
        run(ByHand(), adapting(GROW), numbered())
    run(ByHand(), adapting(GROW, advise_only=True), numbered(), epochs=1)
    for advise_only in (False, True):
        with pytest.raises(
            MisconfigurationException, match="2 optimizers, each with a noise scale of its own"
        ):
            run(ByHand(2), adapting(GROW, advise_only=advise_only), numbered())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("yes", "adaptive_batch_size must be a bool, a BatchSizePolicy"),
        (TrackNoiseScale, "adaptive_batch_size must be a bool, a BatchSizePolicy"),
        (3, "got 3"),
    ],
)
def test_the_flag_takes_what_it_says(value, text):
    with pytest.raises(TypeError, match=text):
        GradientNoiseScale(adaptive_batch_size=value)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"policy": 3}, TypeError, "policy must be a BatchSizePolicy"),
        ({"policy": TrackNoiseScale}, TypeError, "policy must be a BatchSizePolicy"),
        ({"learning_rate": "cubic"}, ValueError, "learning_rate must be one of"),
        ({"max_local_size": 2.5}, TypeError, "max_local_size must be None or an int >= 1, got 2.5"),
        ({"max_local_size": True}, TypeError, "max_local_size"),
        ({"every": 0}, ValueError, 'every must be None, "epoch" or an int >= 1, got 0'),
        ({"every": "step"}, TypeError, "every must be None, \"epoch\" or an int >= 1, got 'step'"),
        ({"within_epoch": 1}, TypeError, "within_epoch must be a bool, got 1"),
        ({"advise_only": "no"}, TypeError, "advise_only must be a bool, got 'no'"),
    ],
)
def test_settings_check_themselves(arguments, error, text):
    with pytest.raises(error, match=text):
        AdaptiveBatchSize(**arguments)


def test_what_the_flag_stands_for():
    policy = ExchangeRate(100)
    assert adaptive_settings(True).policy == LeastTime()
    assert adaptive_settings(policy) == AdaptiveBatchSize(policy)
    assert adaptive_settings(AdaptiveBatchSize(policy, within_epoch=True)).within_epoch


class Threefold:
    """A policy of one's own, annotated as the protocol, which jsonargparse compares."""

    def __call__(self, estimate: NoiseEstimate, global_size: float) -> Decision:
        return Decision(round(3 * global_size), "grow: threefold")


EXCHANGE = {
    "class_path": "lightning_noise.ExchangeRate",
    "init_args": {"rate": 256.0, "min_gain": 0.1},
}
LEAST_TIME = {
    "class_path": "lightning_noise.LeastTime",
    "init_args": {"waste": 0.25, "step_time": [0.01, 1e-5]},
}
RAMP = {
    "class_path": "lightning_noise.BatchSizeRamp",
    "init_args": {"milestones": [1000.0, 3000.0]},
}
OWN = {"class_path": f"{__name__}.Threefold"}
WRITTEN = [
    (True, AdaptiveBatchSize()),
    (EXCHANGE, AdaptiveBatchSize(ExchangeRate(256.0, min_gain=0.1))),
    (
        {"max_local_size": 8, "learning_rate": "sqrt"},
        AdaptiveBatchSize(max_local_size=8, learning_rate="sqrt"),
    ),
    (
        {"policy": EXCHANGE, "advise_only": True},
        AdaptiveBatchSize(ExchangeRate(256.0, min_gain=0.1), advise_only=True),
    ),
    (
        {
            "class_path": "lightning_noise.AdaptiveBatchSize",
            "init_args": {"policy": EXCHANGE, "within_epoch": True},
        },
        AdaptiveBatchSize(ExchangeRate(256.0, min_gain=0.1), within_epoch=True),
    ),
    ({"every": 20}, AdaptiveBatchSize(every=20)),
    ({"every": "epoch", "advise_only": True}, AdaptiveBatchSize(advise_only=True)),
    (LEAST_TIME, AdaptiveBatchSize(LeastTime(0.25, step_time=(0.01, 1e-5)))),
    (
        {"policy": RAMP, "schedule": "steps", "guard": False},
        AdaptiveBatchSize(BatchSizeRamp([1000.0, 3000.0]), schedule="steps", guard=False),
    ),
    (OWN, None),
    ({"policy": OWN}, None),
]


@pytest.mark.parametrize(("written", "meant"), WRITTEN)
def test_the_flag_in_yaml(written, meant):
    """As LightningCLI does: parsed, written out, parsed again."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[L.Callback] | L.Callback | None)
    callback = {
        "class_path": "lightning_noise.GradientNoiseScale",
        "init_args": {"adaptive_batch_size": written},
    }
    again = parser.parse_string(parser.dump(parser.parse_object({"callbacks": [callback]})))
    found = parser.instantiate(again).callbacks[0].settings.adaptive
    assert found == meant or (meant is None and found.policy(None, 4.0).global_size == 12)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (lambda estimate, size: 32, "must return Decision.*returned 32"),
        (lambda estimate, size: Decision(0, "none"), "returned Decision.global_size=0"),
        (lambda estimate, size: Decision(8.5, "half"), "returned Decision.global_size=8.5"),
        (lambda estimate, size: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_policy_that_fails_is_named_and_changes_nothing(policy, text):
    module, loader = Keeper(), numbered()
    with pytest.raises(RuntimeError, match=f"no batch size could be decided.*{text}"):
        run(module, GradientNoiseScale(adaptive_batch_size=policy), loader)
    assert loader.batch_size == 4 and module.sizes() == [4]


# ---- the learning rate --------------------------------------------------------------------------


def test_the_learning_rate_follows_by_one_factor_from_the_start():
    class Rates(Keeper):
        rates = ()

        def training_step(self, batch, batch_idx):
            return 1.0 * self.layer.bias.sum()

        def on_before_zero_grad(self, optimizer):
            self.rates = (*self.rates, round(self.layer.bias.item(), 5))

    module = Rates()
    run(module, adapting({8: 32, 32: 96, 96: 8}, learning_rate="sqrt"), numbered(), accumulate=2)
    steps = [a - b for a, b in zip(module.rates, module.rates[1:], strict=False) if a != b]
    expected = (
        [0.01] * 12 + [0.02] * 3 + [0.01 * 12**0.5] + [0.01] * 11
    )  # back to the start, back to one
    assert steps == pytest.approx(expected, abs=3e-5)


def test_the_optimal_rule_takes_the_kind_of_optimizer_and_the_cautious_end():
    for optimizer, alpha in ((torch.optim.SGD, 1.0), (torch.optim.AdamW, 0.5)):
        module = Regression(lambda p, optimizer=optimizer: optimizer(p, lr=0.01))
        callback = adapting({4: 32}, learning_rate="optimal")
        fit(module, data(examples=256), callback, epochs=1, accumulate=1)
        estimate = callback.session.estimate(Key(), confidence=0.99)
        expected = learning_rate_factor("optimal", 4, 32, estimate, alpha=alpha)
        assert (
            callback.state_dict()["adaptation"]["factors"] == [1.0, expected]
            and 1 < expected < 8**alpha
        )


# ---- logged, printed, told ----------------------------------------------------------------------


def test_logged_and_printed_once_with_its_reason(capsys, tmp_path):
    module = Keeper()
    logger = CSVLogger(tmp_path)
    run(
        module,
        adapting(GROW, learning_rate="linear"),
        numbered(),
        logger=logger,
        log_every_n_steps=6,
    )
    out = capsys.readouterr().out
    changes = [line for line in out.splitlines() if line.startswith("GradientNoiseScale:")]
    assert [line.removeprefix("GradientNoiseScale: global size ") for line in changes] == [
        "4 → 8 from epoch 1 on (local size 8 × accumulation 1 × 1 rank), learning-rate factor 2; "
        "grow: script at 4",
        "8 → 16 from epoch 2 on (local size 16 × accumulation 1 × 1 rank), learning-rate factor 4; "
        "grow: script at 8",
    ]
    assert (
        "adaptive batch size: 4 (epoch 0), 8 (epoch 1), 16 (epochs 2–3); 48 steps, 384 examples"
        in out
    )
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["noise_scale/global_size"]]
    names = ("global_size", "learning_rate_factor", "decided_global_size", "learning_rate")
    shown = [tuple(float(row[f"noise_scale/{name}"] or "nan") for name in names) for row in rows]
    assert shown[-1] == pytest.approx((16, 4, 16, 0.04))
    assert sorted({row[:2] for row in shown}) == [(4, 1), (8, 2), (16, 4)]
    assert [row[2] for row in shown if row[0] == 4][-1] == 8


def test_advice_changes_nothing(capsys):
    module, loader = Keeper(), numbered()
    fitted = run(module, adapting(GROW, advise_only=True), loader, epochs=3)
    plain = Keeper()
    run(plain, GradientNoiseScale(), numbered(), epochs=3)
    assert module.sizes() == [4, 4, 4] and module.epochs == plain.epochs
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True)
    )
    out = capsys.readouterr().out
    assert out.count("GradientNoiseScale: advice: global size 4 → 8") == 1
    assert "advice at the end (nothing was changed): a global size of 8 examples" in out
    assert fitted.callback_metrics["noise_scale/decided_global_size"] == 8
    assert "noise_scale/learning_rate_factor" not in fitted.callback_metrics


@pytest.mark.slow
def test_the_default_policy_grows_from_too_small_a_size(capsys):
    """B_simple = d + 1 + d·s²/|δ|² is far above 4 here, so the size doubles at least once.

    On a machine whose pace changes, a measured step time may send it back.
    """
    callback = GradientNoiseScale(adaptive_batch_size=True)
    fit(Regression(), data(examples=512, shuffle=True), callback, epochs=4, accumulate=1)
    sizes = [period[1] for period in callback.state_dict()["adaptation"]["history"]]
    assert sizes[0] == 4 and max(sizes) >= 8
    assert all(b in (a / 2, a, 2 * a) for a, b in pairwise(sizes))
    assert "predicted gain" in capsys.readouterr().out


def test_units_of_a_batch_size_fn():
    """Ten tokens an example: the policy sees tokens, the loader gets examples."""
    seen = []

    class Tokens(Script):
        def __call__(self, estimate, global_size):
            seen.append(global_size)
            return super().__call__(estimate, global_size)

    module = Keeper()
    callback = GradientNoiseScale(
        adaptive_batch_size=AdaptiveBatchSize(Tokens({40: 80, 80: 240})),
        batch_size_fn=lambda batch: 10 * len(batch[0]),
    )
    run(module, callback, numbered(), epochs=4)
    assert seen == [40, 80, 240, 240] and module.sizes() == [4, 8, 24, 24]


# ---- measuring while adapting -------------------------------------------------------------------


def test_averages_decay_per_example_while_adapting():
    callback, plain = adapting({4: 16}), GradientNoiseScale()
    run(Keeper(), callback, numbered(), epochs=2)
    run(Keeper(), plain, numbered(), epochs=2)
    average = callback.session.readings.windows(Key()).averages[-1]
    weights = [4.0] * 24 + [16.0] * 6
    expected = 0.0
    for weight in weights:
        expected = expected * max(0.9, 0.99 ** (weight / 4)) + weight
    assert average._sums["W"] == pytest.approx(expected, rel=1e-12)
    plain = plain.session.readings.windows(Key()).averages[-1]
    assert plain._sums["W"] == pytest.approx(4 * sum(0.99**k for k in range(48)))


@pytest.mark.parametrize(("accumulate", "probe"), [(1, "examples"), (2, "micro_batches")])
def test_no_change_leaves_the_probe_without_groups(accumulate, probe, caplog):
    """One device: accumulation grows from 1 under single examples, and never falls to 1 under
    micro-batches.
    """
    caplog.set_level(logging.INFO)
    start = 4 * accumulate
    callback = adapting({start: 16, 16: 32, 32: 4}, max_local_size=4)
    module = Keeper()
    run(module, callback, numbered(), epochs=4, accumulate=accumulate)
    assert f"probe {probe}" in caplog.text
    assert [kept["accumulation"] for kept in module.epochs.values()] == [
        accumulate,
        4,
        8,
        accumulate,
    ]
    assert callback.session.tally.skipped == {}
    assert callback.estimate().steps == sum(kept["steps"] for kept in module.epochs.values())


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_resume_takes_the_probe_of_the_start(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = {"max_local_size": 4}
    saving = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    first = run(Keeper(), adapting({4: 16}, **settings), numbered(), epochs=2, **saving)
    first.save_checkpoint(tmp_path / "a.ckpt")
    caplog.clear()
    module, callback = Keeper(), adapting({4: 16, 16: 4}, **settings)
    fit(module, numbered(), callback, epochs=4, accumulate=1, ckpt_path=tmp_path / "a.ckpt")
    assert "probe examples" in caplog.text and callback.session.tally.skipped == {}
    assert [kept["accumulation"] for kept in module.epochs.values()] == [4, 1]


def test_schedules_that_count_steps_are_warned_of_or_kept_in_pace():
    class Scheduled(Keeper):
        wrap = staticmethod(lambda scheduler: scheduler)

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = self.wrap(
                torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=3 * 24)
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": schedule, "interval": "step"},
            }

    class Wrapped(Scheduled):
        wrap = staticmethod(ByExamples)

    with pytest.warns(UserWarning, match=r"LinearLR counts optimizer steps \(72 in all\)"):
        run(Scheduled(), adapting(GROW, schedule="steps"), numbered(), epochs=1)
    fitted = run(Wrapped(), adapting({4: 7, 7: 16}), numbered(), epochs=3)  # 24, 14, 6 steps
    assert fitted.global_step == 44
    schedule = fitted.lr_scheduler_configs[0].scheduler
    assert schedule.pace == 4 and fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(
        0, abs=1e-9
    )
    run(
        Wrapped(),
        adapting(GROW, within_epoch=True),
        DataLoader(Numbered(600), batch_size=4),
        epochs=1,
    )


class Wide(Regression):
    """Has more parameters than its data set has examples."""

    def __init__(self):
        super().__init__(lambda p: torch.optim.AdamW(p, lr=3e-3))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(
                torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
            )


@pytest.mark.slow
def test_a_small_data_set_that_repeats_ends_the_growth():
    """Noisy labels are learned by heart, so that B_simple passes the 300 examples and says nothing
    about new data.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=generator)
    y = x[:, :1] + torch.randn(300, 1, generator=generator)
    noise = GradientNoiseScale(adaptive_batch_size=TrackNoiseScale())
    loader = DataLoader(TensorDataset(x, y), 8, shuffle=True, generator=generator)
    fit(Wide(), loader, noise, accumulate=1, epochs=40)
    assert repeats_dominate(noise.estimate(), data_size=300)
    sizes = [size for _, size, *_ in noise.state_dict()["adaptation"]["history"]]
    assert max(sizes) < 300 / 3


def test_a_rate_that_follows_the_batch_size_is_no_schedule():
    """The factor is 16 in the end, and yet no step counts as one with a small learning rate."""
    noise = adapting({4: 64}, learning_rate="linear")
    run(Keeper(), noise, numbered(), epochs=3)
    way = noise.trajectories()[Key()]
    assert noise.state_dict()["adaptation"]["factors"][0] == 16.0
    assert (
        way.peak_rate == 0.01 and way.high.end[0] == noise.estimate().steps and not way.has_decayed
    )
