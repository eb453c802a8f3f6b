"""Least time in a Trainer: the flag, the clock, the guard, and schedules that count examples."""

from typing import ClassVar

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import lr_scheduler as schedulers

from lightning_noise import AdaptiveBatchSize, Examples, GradientNoiseScale, LeastTime
from lightning_noise.adapt import adaptation
from lightning_noise.hosts.lightning.paced_schedules import Paced
from lightning_noise.hosts.step_clock import SETTLE, StepClock
from testing.adapting import Script, adapting
from testing.toys import Regression, data, fit

SECONDS = {4: 1.0, 8: 1.5}  # of a step


class Clock:
    """A clock that only the test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("lightning_noise.hosts.step_clock.time.perf_counter", found)
    return found


class Timed(Regression):
    """Steps, validations and epoch ends take a known time; every seventh step is slow."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += SECONDS[len(batch[0])]
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.now += 1000.0

    def on_train_epoch_end(self):
        self.clock.now += 5000.0


class Saver(ModelCheckpoint):
    """Its checkpoints take a known time."""

    def __init__(self, folder, clock):
        super().__init__(folder, every_n_train_steps=9)
        self.clock = clock

    def _save_checkpoint(self, trainer, filepath):
        super()._save_checkpoint(trainer, filepath)
        self.clock.now += 3000.0


def times_of(callback):
    saved = callback.state_dict()["adaptation"].get("times", [])
    return dict(saved)


def growing(**settings):
    """A policy that needs the clock and follows a script."""

    class Timing(LeastTime):
        def decide(self, estimate, global_size, situation):
            return Script({4: 8})(estimate, global_size)

    settings = AdaptiveBatchSize(Timing(), every="epoch", **settings)
    return GradientNoiseScale(adaptive_batch_size=settings, verbose=False)


def test_steps_are_timed_and_nothing_else(clock, tmp_path):
    noise = growing()
    loader = data(examples=96)
    arguments = {"val": data(8), "val_check_interval": 5, "enable_checkpointing": True}
    fit(Timed(clock), loader, noise, Saver(tmp_path, clock), epochs=2, accumulate=1, **arguments)
    found = times_of(noise)
    assert set(found) == {4, 8}
    assert set(found[4]) == {1.0} and set(found[8]) == {1.5}
    # of 24 steps: none across four validations, two checkpoints and the first steps
    assert 24 - SETTLE - 1 - 6 <= len(found[4]) <= 24 - SETTLE - 1 - 4


def test_a_step_is_timed_with_all_its_micro_batches(clock):
    noise = growing()
    fit(Timed(clock), data(examples=96), noise, epochs=1, accumulate=3)
    assert times_of(noise) == {12: [3.0] * (8 - SETTLE - 1)}


def test_given_step_times_are_not_measured(clock):
    policy = LeastTime(step_time=(1.0, 0.1))
    noise = GradientNoiseScale(adaptive_batch_size=policy, verbose=False)
    fit(Timed(clock), data(examples=96), noise, epochs=1, accumulate=1)
    assert times_of(noise) == {}


class Event:
    """What a CUDA event does, with the device two steps behind the host."""

    recorded: ClassVar[list] = []
    waited = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.recorded.append(self)
        self.milliseconds = 250.0 * len(Event.recorded)

    def synchronize(self):
        Event.waited += 1

    def elapsed_time(self, later):
        return later.milliseconds - self.milliseconds


def test_on_cuda_events_are_read_later(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    steps = StepClock(torch.device("cuda"))
    for _ in range(SETTLE + 4):
        steps.step_done()
    assert (len(Event.recorded), Event.waited) == (4, 0)
    assert steps.read().measured == [0.25, 0.25, 0.25] and Event.waited == 3


def test_the_verdict_prints_the_pair_to_paste(clock):
    noise = growing()
    fit(Timed(clock), data(examples=192), noise, epochs=2, accumulate=1)
    story = str(noise.verdict())
    assert "median step times: 4: 1e+03 ms, 8: 1.5e+03 ms" in story
    assert "LeastTime(step_time=(0.5, 0.125))" in story


@pytest.fixture
def deterministic_again():
    yield
    torch.use_deterministic_algorithms(False)


def flag(policy=True):
    return GradientNoiseScale(adaptive_batch_size=policy, verbose=False)


@pytest.mark.usefixtures("deterministic_again")
def test_a_deterministic_run_needs_the_pair():
    with pytest.raises(MisconfigurationException, match=r"LeastTime\(step_time=\(a, b\)\)"):
        fit(Regression(), data(), flag(), deterministic=True)
    fit(Regression(), data(), flag(LeastTime(step_time=(1.0, 0.1))), deterministic=True)
    fit(Regression(), data(), flag(), deterministic="warn")


def test_the_flag_grows_while_a_longer_step_pays():
    policy = LeastTime(step_time=(1.0, 0.0), waste=2.0)
    noise = flag(AdaptiveBatchSize(policy, every="epoch"))
    trained = fit(Regression(), data(examples=512), noise, epochs=4, accumulate=1)
    history = noise.state_dict()["adaptation"]["history"]
    sizes = [period[1] for period in history]
    assert sizes[0] == 4 and sizes[-1] > 4
    assert all(size in (4, 8, 16, 32) for size in sizes)
    assert trained.global_step == sum(512 // size for size in sizes)


def test_only_least_time_averages_by_steps():
    assert not flag().settings.what.decay_by_examples
    assert adapting({}).settings.what.decay_by_examples


# How often steps are measured


class Dear(Examples):
    """Measuring a step takes a known time."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.measured = 0

    def row(self):
        self.clock.now += 1.5  # and the rest of the step 1.0
        self.measured += 1
        return super().row()


def dear(clock, **arguments):
    settings = AdaptiveBatchSize(LeastTime(waste=1e-6))  # never grows
    probe = Dear(clock)
    return GradientNoiseScale(probe, adaptive_batch_size=settings, verbose=False, **arguments)


@pytest.fixture
def known(monkeypatch):
    """Whether the noise scale is known enough is not the question here."""
    monkeypatch.setattr(adaptation, "is_known", lambda _: True)


def test_until_the_noise_scale_is_known_dear_steps_are_measured_too(clock):
    """All but ten of the second 20 steps: at 1360 examples |G|² is not resolved."""
    noise = dear(clock)
    fit(Timed(clock), data(examples=4 * 340), noise, epochs=1, accumulate=1)
    assert noise.settings.probe.measured == 340 - 10
    assert noise.estimate().high is None
    assert times_of(noise) == {4: [pytest.approx(1.0, rel=1e-12)] * 64}


@pytest.mark.usefixtures("known")
def test_dear_measurements_are_rare(clock):
    """All of the first 20 steps, every second one of the next 20, then one of 15."""
    noise = dear(clock)
    fit(Timed(clock), data(examples=4 * 340), noise, epochs=1, accumulate=1)
    assert noise.settings.probe.measured == 20 + 10 + 20
    assert noise.session.steps_read == 50
    assert times_of(noise) == {4: [pytest.approx(1.0, rel=1e-12)] * 64}
    assert "one of every 15 steps is measured, since a measured step" in str(noise.verdict())


def test_the_user_says_how_often_to_measure(clock):
    noise = dear(clock, every_n_steps=1)
    fit(Timed(clock), data(examples=4 * 100), noise, epochs=1, accumulate=1)
    assert noise.settings.probe.measured == 100
    assert set(times_of(noise)[4]) == {2.5}


@pytest.mark.usefixtures("known")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_resumed_run_measures_as_often_as_before(clock, tmp_path):
    path = tmp_path / "a.ckpt"
    loader = data(examples=4 * 340)
    fit(Timed(clock), loader, dear(clock), Keeping(path, 200), epochs=1, accumulate=1)
    resumed = dear(clock)
    fit(Timed(clock), loader, resumed, epochs=1, accumulate=1, ckpt_path=path)
    assert resumed.settings.probe.measured == 9  # steps 210, 225, … 330
    assert resumed.session.steps_read == 50


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_with_the_pair_a_resumed_run_measures_every_step(clock, tmp_path):
    path = tmp_path / "a.ckpt"
    loader = data(examples=4 * 100)
    fit(Timed(clock), loader, dear(clock), Keeping(path, 80), epochs=1, accumulate=1)
    settings = AdaptiveBatchSize(LeastTime(waste=1e-6, step_time=(1.0, 0.1)))
    resumed = GradientNoiseScale(Dear(clock), adaptive_batch_size=settings, verbose=False)
    fit(Timed(clock), loader, resumed, epochs=1, accumulate=1, ckpt_path=path)
    assert resumed.settings.probe.measured == 20


# The guard


class Jumping(Regression):
    """Its loss is five times as large from step 160 on, without another gradient."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step >= 160:
            return loss + 4 * loss.detach() + 10
        return loss


@pytest.mark.parametrize(("guard", "factor"), [(True, 1.0), (False, 2.0)])
def test_a_jump_of_the_loss_lowers_the_factor(guard, factor, capsys):
    noise = adapting({4: 8}, learning_rate="linear", guard=guard)
    fit(Jumping(), data(examples=512), noise, epochs=2, accumulate=1)
    assert noise._fits._adapting.factor == factor
    assert ("the loss jumped: learning-rate factor 1" in capsys.readouterr().out) is guard


def test_losses_of_micro_batches_are_averaged():
    class Constant(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss - loss.detach() + 3.0

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 32:
                self.state = noise.state_dict()

    noise, kept = adapting({}), Keep()
    fit(Constant(), data(examples=512), noise, kept, epochs=1, accumulate=4)
    state = kept.state
    assert "losses" not in noise.state_dict()
    assert state["adaptation"]["guard"][0] == [pytest.approx(3.0, rel=1e-6)] * 25
    assert state["losses"] == {"steps": 7, "values": [pytest.approx(3.0, rel=1e-6)] * 7}


# Schedules


class Cosine(Regression):
    """A cosine over four epochs of 24 steps."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        self.schedule = schedulers.CosineAnnealingLR(optimizer, T_max=96)
        return [optimizer], [{"scheduler": self.schedule, "interval": "step"}]

    def on_train_epoch_end(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def cosine(*callbacks, **arguments):
    module = Cosine()
    trained = fit(module, data(examples=96), *callbacks, epochs=4, accumulate=1, **arguments)
    return module, trained


def test_a_schedule_by_steps_ends_when_training_ends():
    fixed, _ = cosine()
    grown, trained = cosine(adapting({4: 8, 8: 16}))
    assert trained.global_step == 24 + 12 + 6 + 6
    assert grown.rates == pytest.approx(fixed.rates, abs=1e-9)
    assert grown.rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_the_user_s_schedule_is_given_back():
    module, trained = cosine(adapting({4: 8}))
    assert trained.lr_scheduler_configs[0].scheduler is module.schedule

    class Fails(Cosine):
        def on_train_epoch_end(self):
            raise RuntimeError("in the middle")

    module = Fails()
    noise = adapting({4: 8})
    with pytest.raises(RuntimeError, match="in the middle"):
        fit(module, data(examples=96), noise, epochs=4, accumulate=1)
    assert module.trainer.lr_scheduler_configs[0].scheduler is module.schedule


def test_steps_can_be_asked_for():
    with pytest.warns(UserWarning, match="CosineAnnealingLR counts optimizer steps"):
        grown, _ = cosine(adapting({4: 8, 8: 16}, schedule="steps"))
    assert grown.rates[-1] > 0.02


class Keeping(L.Callback):
    """Saves a checkpoint at a step."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_checkpoints_with_and_without_a_paced_schedule_can_be_exchanged(tmp_path):
    path = tmp_path / "a.ckpt"
    cosine(adapting({4: 8, 8: 16}), Keeping(path, 24 + 12))
    saved = torch.load(path, weights_only=False)["lr_schedulers"][0]
    assert saved["last_epoch"] == 48 and saved["lightning_noise_pace"]["pace"] == 2.0
    plain, _ = cosine(ckpt_path=path)
    assert plain.schedule.last_epoch > 48
    other = tmp_path / "b.ckpt"
    cosine(Keeping(other, 30))
    schedule = Paced(schedulers.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=0.05), 96))
    schedule.load_state_dict(torch.load(other, weights_only=False)["lr_schedulers"][0])
    assert schedule.last_epoch == 30 and schedule._taken == 30


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_paced_schedule_resumes_exactly(tmp_path):
    """From the end of an epoch of 14 steps, each of which advances the schedule by 24/14."""
    grow = {4: 7, 7: 12}
    whole, first = cosine(adapting(grow))
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    cosine(adapting(grow), saver, enable_checkpointing=True)
    again, second = cosine(adapting(grow), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert again.rates == whole.rates[2:] and first.global_step == second.global_step
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


def test_schedule_and_guard_are_checked():
    with pytest.raises(ValueError, match="schedule must be 'examples' or 'steps', got 'epochs'"):
        AdaptiveBatchSize(schedule="epochs")
    with pytest.raises(TypeError, match="guard must be a bool, got 1"):
        AdaptiveBatchSize(guard=1)
