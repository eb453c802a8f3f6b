"""Schedules that count steps: which they are, what is said of them, and the wrapper that counts
examples instead.
"""

import copy
import pickle
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from torch.optim import lr_scheduler as schedulers

from lightning_noise.hosts.lightning.schedules import (
    ByExamples,
    set_pace,
    step_counters,
    total_steps,
)
from lightning_noise.hosts.rate_factor import LearningRateFactor
from testing.callbacks import IGNORE_OTHER_CALLBACKS
from testing.toys import Regression, data, fit


def make_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


SCHEDULERS = {
    "OneCycleLR": (lambda o: schedulers.OneCycleLR(o, 0.3, total_steps=60), 60),
    "CosineAnnealingLR": (lambda o: schedulers.CosineAnnealingLR(o, 60), 60),
    "LinearLR": (lambda o: schedulers.LinearLR(o, 1.0, 0.0, total_iters=60), 60),
    "ConstantLR": (lambda o: schedulers.ConstantLR(o, 0.1, total_iters=30), 30),
    "PolynomialLR": (lambda o: schedulers.PolynomialLR(o, total_iters=60, power=2.0), 60),
    "MultiStepLR": (lambda o: schedulers.MultiStepLR(o, [11, 30, 51]), 51),
    "SequentialLR": (
        lambda o: schedulers.SequentialLR(
            o,
            [schedulers.LinearLR(o, 0.1, total_iters=10), schedulers.CosineAnnealingLR(o, 50)],
            milestones=[10],
        ),
        60,
    ),
    "ChainedScheduler": (
        lambda o: schedulers.ChainedScheduler(
            [schedulers.LinearLR(o, 0.1, total_iters=10), schedulers.PolynomialLR(o, 60)]
        ),
        60,
    ),
    "ChainedScheduler, endless": (
        lambda o: schedulers.ChainedScheduler(
            [schedulers.LinearLR(o, 0.1, total_iters=10), schedulers.ExponentialLR(o, 0.9)]
        ),
        None,
    ),
    "SequentialLR, endless": (
        lambda o: schedulers.SequentialLR(
            o, [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], milestones=[10]
        ),
        None,
    ),
    "LambdaLR": (lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)), None),
    "StepLR": (lambda o: schedulers.StepLR(o, 7), None),
    "CosineAnnealingWarmRestarts": (lambda o: schedulers.CosineAnnealingWarmRestarts(o, 13), None),
}
PACES = {
    "whole": [1] * 12 + [3] * 9 + [7] * 3,
    "broken": [1.5] * 20 + [22.5],
    "shrinking": [3] * 10 + [1 / 3] * 90,
    "one": [1] * 60,
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_where_schedules_end(name):
    make, total = SCHEDULERS[name]
    assert total_steps(make(make_optimizer())) == total


@pytest.mark.parametrize("paces", PACES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_after_as_many_examples_the_schedule_is_where_it_would_have_been(name, paces):
    plain = make_optimizer()
    bare = SCHEDULERS[name][0](plain)
    rates = [plain.param_groups[0]["lr"]]
    for _ in range(60):
        plain.step()
        bare.step()
        rates.append(plain.param_groups[0]["lr"])
    optimizer = make_optimizer()
    wrapped = ByExamples(SCHEDULERS[name][0](optimizer))
    used = 0.0
    for pace in PACES[paces]:
        wrapped.pace = pace
        optimizer.step()
        wrapped.step()
        used += pace
        assert (
            optimizer.param_groups[0]["lr"] == wrapped.get_last_lr()[0] == rates[int(used + 1e-6)]
        )
    assert used == pytest.approx(60) or paces == "broken"


def test_one_cycle_never_steps_past_its_end_and_total_steps_holds_others():
    optimizer = make_optimizer()
    wrapped = ByExamples(schedulers.OneCycleLR(optimizer, 0.3, total_steps=10))
    cosine = ByExamples(schedulers.CosineAnnealingLR(make_optimizer(), 10), total_steps=10)
    endless = ByExamples(schedulers.CosineAnnealingLR(make_optimizer(), 10))
    for schedule in (wrapped, cosine, endless):
        schedule.pace = 4
        for _ in range(4):
            schedule.optimizer.step()
            schedule.step()
    assert wrapped.last_epoch == 10  # bare, the eleventh step raises an error
    assert cosine.get_last_lr() == [pytest.approx(0.0, abs=1e-12)] and cosine.last_epoch == 10
    assert endless.last_epoch == 16 and endless.get_last_lr()[0] > 0.01


@pytest.mark.parametrize("name", SCHEDULERS)
def test_state_is_exact(name):
    make = SCHEDULERS[name][0]
    optimizer = make_optimizer()
    whole = ByExamples(make(optimizer))
    whole.pace = 2.3
    for _ in range(7):
        optimizer.step()
        whole.step()
    saved = copy.deepcopy((optimizer.state_dict(), whole.state_dict()))
    other = make_optimizer()
    resumed = ByExamples(make(other))
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for _ in range(12):
        for o, schedule in ((optimizer, whole), (other, resumed)):
            o.step()
            schedule.step()
        assert resumed.get_last_lr() == whole.get_last_lr()
    assert resumed.pace == 2.3 and resumed.state_dict().keys() == whole.state_dict().keys()


def test_it_can_be_copied_and_reads_like_the_schedule():
    schedule = ByExamples(schedulers.StepLR(make_optimizer(), 3))
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin.step_size == 3 and twin.base_lrs == [0.1]
        with pytest.warns(
            UserWarning, match="please use `get_last_lr"
        ):  # torch's own advice passes through
            assert twin.get_lr() == [0.1]
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = schedule.no_such_thing


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ByExamples(schedulers.ReduceLROnPlateau(make_optimizer())),
            TypeError,
            "got ReduceLROnPlateau",
        ),
        (
            lambda: ByExamples(make_optimizer()),
            TypeError,
            "scheduler must be a torch LRScheduler .* got SGD",
        ),
        (
            lambda: ByExamples(schedulers.StepLR(make_optimizer(), 3), total_steps=0),
            ValueError,
            "total_steps must be None or an",
        ),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("pace", [0, -1, float("nan"), float("inf")])
def test_a_pace_must_be_positive(pace):
    schedule = ByExamples(schedulers.StepLR(make_optimizer(), 3))
    with pytest.raises(ValueError, match="pace must be a finite number > 0"):
        schedule.pace = pace


# ---- what is said at the start


def attached(scheduler, interval="step", reduce_on_plateau=False):
    config = SimpleNamespace(
        scheduler=scheduler, interval=interval, reduce_on_plateau=reduce_on_plateau
    )
    return SimpleNamespace(lr_scheduler_configs=[config])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "OneCycleLR",
            "OneCycleLR counts optimizer steps (60 in all). When the batch grows, an epoch has "
            "fewer of them: it comes to",
        ),
        (
            "OneCycleLR",
            "when it shrinks, step 61 raises an error. Wrap it to count examples instead: "
            "lightning_noise.ByExamples(OneCycle",
        ),
        ("SequentialLR", "SequentialLR counts optimizer steps (60 in all)."),
        ("LambdaLR", "if its function expects a certain number of steps, it does not get that far"),
        (
            "StepLR",
            "StepLR counts optimizer steps. When the batch grows, an epoch has fewer of them: its "
            "changes of the rate come",
        ),
    ],
)
def test_a_schedule_that_counts_steps_is_named_with_its_fate(name, words):
    (text,) = step_counters(attached(SCHEDULERS[name][0](make_optimizer())))
    assert words in text
    assert ("raises an error" in text) == (name == "OneCycleLR")


def test_what_needs_no_warning():
    plateau = schedulers.ReduceLROnPlateau(make_optimizer())
    assert (
        step_counters(attached(plateau))
        == step_counters(attached(plateau, reduce_on_plateau=True))
        == ()
    )
    cosine = schedulers.CosineAnnealingLR(make_optimizer(), 60)
    assert (
        step_counters(attached(cosine, interval="epoch"))
        == step_counters(attached(ByExamples(cosine)))
        == ()
    )


# ---- in a Trainer


class Scheduled(Regression):
    """OneCycle over 4 epochs of 16 steps; ``sizes`` are the batch sizes of the epochs."""

    def __init__(self, sizes=(4, 4, 4, 4), wrap=ByExamples):
        super().__init__()
        self.sizes, self.wrap, self.rates = sizes, wrap, []

    def train_dataloader(self):
        return data(local_size=self.sizes[min(self.trainer.current_epoch, 3)])

    def on_train_epoch_start(self):
        if self.wrap is ByExamples:
            set_pace(self.trainer, self.sizes[self.trainer.current_epoch] / self.sizes[0])

    def on_train_epoch_end(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = self.wrap(
            schedulers.OneCycleLR(optimizer, 0.3, total_steps=64, cycle_momentum=False)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run(module, *callbacks, **arguments):
    arguments = {"epochs": 4, "accumulate": 1, "reload_dataloaders_every_n_epochs": 1, **arguments}
    return fit(module, None, *callbacks, **arguments)


def test_in_a_trainer_every_epoch_ends_where_it_would_have_ended():
    bare, fixed, grown = Scheduled(wrap=lambda s: s), Scheduled(), Scheduled((4, 8, 16, 32))
    assert [run(module).global_step for module in (bare, fixed, grown)] == [64, 64, 30]
    assert fixed.rates == bare.rates == grown.rates
    late = Scheduled((4, 8, 16, 32), wrap=lambda s: s)
    run(late)
    assert late.rates[-1] > 100 * bare.rates[-1]  # what the warning speaks of


@IGNORE_OTHER_CALLBACKS
def test_resumes_in_a_trainer(tmp_path):
    sizes = (4, 8, 8, 32)
    whole = Scheduled(sizes)
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run(whole, saver, enable_checkpointing=True)
    resumed = Scheduled(sizes)
    run(resumed, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert resumed.rates == whole.rates[2:]


class Recorder(L.pytorch.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.rates = []

    def log_metrics(self, metrics, step=None):
        self.rates += [value for name, value in metrics.items() if name == "lr-SGD"]


class Factor(L.Callback):
    """A factor that applies during the whole fit."""

    def on_fit_start(self, trainer, pl_module):
        self.rate = LearningRateFactor(trainer.optimizers[0])
        self.rate.factor = 2.5

    def on_fit_end(self, trainer, pl_module):
        self.rate.close()


def test_the_learning_rate_monitor_shows_the_schedule_and_the_factor_works_beneath():
    plain, raised = Recorder(), Recorder()
    module, other = Scheduled(), Scheduled()
    run(module, LearningRateMonitor(), logger=plain, log_every_n_steps=1)
    run(other, LearningRateMonitor(), Factor(), logger=raised, log_every_n_steps=1)
    assert len(plain.rates) == 64 and len(set(plain.rates)) > 50
    assert raised.rates == plain.rates
    assert not torch.equal(module.net[0].weight, other.net[0].weight)
