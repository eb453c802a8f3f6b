"""Passes Lightning's events to the adaptation and performs the actions that it returns."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_noise.adapt.actions import Action, MeasureEvery, MeasureSizeAnew, Say, Warn
from lightning_noise.adapt.adaptation import AboveMaxLocalSizeError, Adaptation
from lightning_noise.adapt.adaptation_state import Mark, State
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.learning_rate import Alpha, alpha_for
from lightning_noise.adapt.policy import DECISION_CONFIDENCE
from lightning_noise.adapt.step_times import StepTimes
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.adapting import Adapting, Measured, NoAdapting
from lightning_noise.hosts.lightning.adapting_refusals import (
    cannot_adapt,
    cannot_adapt_by_clock,
    refuse_adapting,
)
from lightning_noise.hosts.lightning.broadcast_decision import from_rank_zero
from lightning_noise.hosts.lightning.inside_epoch import InsideEpoch
from lightning_noise.hosts.lightning.loaders import LoaderError
from lightning_noise.hosts.lightning.out_of_memory import MemoryGuard
from lightning_noise.hosts.lightning.paced_schedules import PacedSchedules
from lightning_noise.hosts.lightning.print_lines import print_lines
from lightning_noise.hosts.lightning.schedules import step_counters
from lightning_noise.hosts.lightning.smaller_batches import SmallerBatches
from lightning_noise.hosts.lightning.split import Split
from lightning_noise.hosts.lightning.step_watch import StepWatch
from lightning_noise.hosts.lightning.trainer_controls import TrainerControls
from lightning_noise.hosts.rate_factor import optimizer_kinds
from lightning_noise.say.log_keys import PREFIX

PART = "adaptation"  # of the callback's state
ONLY_ACCUMULATION = (
    "{reason}. Inside an epoch only accumulate_grad_batches changes, and the batch size changes "
    "between epochs."
)

Decide = Callable[[Measurement, Limits], list[Action]]


def adapting_by(
    settings: AdaptiveBatchSize | None, unit: str, split: Split | None = None
) -> Adapting:
    """What a callback calls: an :class:`Adapter`, or without settings :class:`NoAdapting`."""
    if settings is None:
        return NoAdapting()
    return Adapter(settings, unit, split)


class _Source(NamedTuple):
    """Where the numbers come from while a fit is open."""

    measured: Measured
    estimate: Callable[[float], NoiseEstimate]

    @property
    def now(self) -> Mark:
        return Mark(self.measured.optimizer_steps, self.measured.examples)

    def measurement(self) -> Measurement:
        return Measurement(
            estimate=self.estimate(DECISION_CONFIDENCE),
            global_size=self.measured.global_size,
            optimizer_steps=self.measured.optimizer_steps,
            examples=self.measured.examples,
            data_size=self.measured.data_size,
            noise_scale=self.measured.noise_scale,
        )


class Adapter(Adapting):
    """Translates the hooks of a callback into events of an :class:`Adaptation`.

    Args:
        settings: how to adapt.
        unit: what batch sizes count, in words.
        split: of the batches; batches and accumulation are counted here as without it.
    """

    def __init__(self, settings: AdaptiveBatchSize, unit: str, split: Split | None = None) -> None:
        self._adaptation = Adaptation(settings, unit)
        self._split = split or Split(1)
        self._controls = TrainerControls(self._split)
        self._guard: MemoryGuard | None = None
        self._watch = StepWatch(self._adaptation)
        self._schedules = PacedSchedules()
        self._open: _Source | None = None  # while a fit is open

    @property
    def decides(self) -> bool:
        return True

    @property
    def factor(self) -> float:
        return self._adaptation.rate_factor

    @property
    def _inside(self) -> InsideEpoch:
        return self._controls.inside

    @property
    def _settings(self) -> AdaptiveBatchSize:
        return self._adaptation.settings

    def open(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        measured: Measured,
        *,
        forget: bool,
        estimate: Callable[[float], NoiseEstimate],
    ) -> None:
        refuse_adapting(trainer, module, advise_only=self._settings.advise_only)
        self._open = _Source(measured, estimate)
        if forget:
            self._adaptation.forget()
            self._watch.forget()
        if self._settings.advise_only:
            return
        if self._adaptation.needs_clock and trainer_facts.is_deterministic():
            raise cannot_adapt_by_clock()
        self._controls.take(trainer)
        redo = SmallerBatches(
            self._adaptation,
            self._controls,
            measured,
            self._open.measurement,
            lambda actions: self._make_again(trainer, actions),
        )
        self._guard = MemoryGuard(redo)
        self._guard.install(trainer)
        self._watch.open(trainer)
        if self._settings.schedule == "examples":
            self._schedules.install(trainer)
        # Not earlier: configure_optimizers has then seen the loaders of the start, as in the
        # first run.
        self._perform(trainer, self._adaptation.in_force())
        self._measure_as_often()
        for consequence in step_counters(trainer):
            rank_zero_warn(f"GradientNoiseScale: {consequence}")
        rule = self._settings.learning_rate
        if rule in ("optimal", "middle"):
            reason = _alpha(trainer).reason
            rank_zero_info(f"GradientNoiseScale: learning_rate={rule!r}, {reason}.")

    def check(self, trainer: L.Trainer) -> None:
        try:
            actions = self._adaptation.begin_fit(self._source.now, self._controls.start())
        except (LoaderError, AboveMaxLocalSizeError) as error:
            raise cannot_adapt(str(error)) from error
        self._perform(trainer, actions)
        if self._settings.advise_only:
            return
        if MeasureSizeAnew() in actions:  # another start
            self._inside.forget()
        self._controls.prepare_before_start()
        reason = self._inside.reason()
        if reason and self._settings.steps_between is not None:
            rank_zero_warn(f"GradientNoiseScale: {ONLY_ACCUMULATION.format(reason=reason)}")

    def begin_epoch(self, trainer: L.Trainer) -> None:
        self._watch.interrupt()
        self._controls.settle()
        batches = trainer.num_training_batches / self._split.times
        actions = self._adaptation.begin_epoch(trainer.current_epoch, batches)
        self._perform(trainer, actions)

    def prepare_loaders(self, trainer: L.Trainer) -> None:
        if self._adaptation.waits:
            trainer_facts.prepare_training_loaders(trainer)

    def end_epoch(self, trainer: L.Trainer) -> None:
        self._decide(trainer, self._adaptation.end_epoch)
        self._controls.prepare_between_epochs()

    def end_training(self) -> None:
        self._adaptation.end_training(self._source.measurement())

    def watch_batch(self, trainer: L.Trainer, outputs: object) -> None:
        measured = self._source.measured.measured_step
        losses = self._watch.batch_done(trainer, outputs, measured=measured)
        if losses is None:
            return

        def judge() -> tuple[list[Action], State]:
            actions = self._adaptation.losses(losses)
            return actions, self._adaptation.state

        self._agree(trainer, judge)

    def interrupt(self) -> None:
        self._watch.interrupt()

    def after_batch(self, trainer: L.Trainer, *, decides: bool = True) -> None:
        if trainer.is_last_batch:
            return
        measured = self._source.measured
        if decides and self._adaptation.decides_now(measured.optimizer_steps):
            measured.read()
            self._decide(trainer, self._adaptation.inside_epoch, inside_epoch=True)
        if self._settings.advise_only:
            return
        batches, pieces = divmod(trainer_facts.batches_done(trainer), self._split.times)
        if pieces:
            return
        if self._adaptation.waits and self._inside.arrives(batches):
            measured.read()
            self._watch.read_times()  # of the size until now
            actions = self._adaptation.arrives(self._source.measurement())
            self._perform(trainer, actions)
        self._inside.settle()

    def values(self) -> dict[str, float]:
        values = {}
        if not self._settings.advise_only:
            values[f"{PREFIX}learning_rate_factor"] = self.factor
        decided = self._adaptation.state.decided
        if decided is not None:
            values[f"{PREFIX}decided_global_size"] = decided
        return values

    def story(self) -> list[str]:
        return self._adaptation.summary()

    def step_times(self) -> StepTimes:
        return self._adaptation.state.times

    def close(self) -> None:
        self._open = None
        if self._guard is not None:
            self._guard.remove()
            self._guard = None
        self._watch.close()
        self._schedules.remove()
        self._controls.release()

    def state_dict(self) -> dict[str, Any]:
        self._watch.interrupt()  # a checkpoint is being written
        return {
            PART: self._adaptation.state_dict(),
            **self._inside.state_dict(),
            **self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inside.load_state_dict(state)
        self._watch.load_state_dict(state)
        saved = state.get(PART)
        if saved is None:  # of a run that only measured
            self._adaptation.forget()
            return
        self._adaptation.load_state_dict(saved)
        for action in self._adaptation.in_force():  # a strategy may restore within a fit
            self._controls.perform(action)
        self._measure_as_often()

    def _measure_as_often(self) -> None:
        """As the state says, which may be that of a checkpoint; without a clock every step."""
        if self._open is not None and self._adaptation.needs_clock:
            self._open.measured.measure_every(self._adaptation.state.cadence.every)

    def _make_again(self, trainer: L.Trainer, actions: list[Action]) -> None:
        """Memory did not hold a step, which is made again: what the watch has of it is void."""
        self._watch.abandon_step()
        self._perform(trainer, actions)

    def _decide(self, trainer: L.Trainer, event: Decide, *, inside_epoch: bool = False) -> None:
        """An event that asks the policy happens on rank 0; all ranks perform its actions."""

        def decide() -> tuple[list[Action], State]:
            self._watch.read_times()
            measurement = self._source.measurement()
            actions = event(measurement, self._limits(trainer, inside_epoch=inside_epoch))
            return actions, self._adaptation.state

        self._agree(trainer, decide)

    def _agree(self, trainer: L.Trainer, decide: Callable[[], tuple[list[Action], State]]) -> None:
        """What rank 0 decides becomes the state of all ranks, and all perform its actions."""
        actions, self._adaptation.state = from_rank_zero(trainer, decide)
        self._perform(trainer, actions)

    def _limits(self, trainer: L.Trainer, *, inside_epoch: bool) -> Limits:
        steps_left = _or_endless(trainer.max_steps) - trainer.global_step
        resizes = False
        if inside_epoch and not self._settings.advise_only:
            resizes = not self._inside.reason()
            if not self._inside.has_room:
                steps_left = 0  # the epoch ends before a change can arrive
        return Limits(
            bounds=self._controls.bounds(self._settings.max_local_size),
            alpha=_alpha(trainer).value,
            max_epochs=_or_endless(trainer.max_epochs),
            steps_left=steps_left,
            resizes_inside=resizes,
            may_rest=self._adaptation.needs_clock and self._source.measured.may_rest,
        )

    def _perform(self, trainer: L.Trainer, actions: Iterable[Action]) -> None:
        """In their order. While no trainer is held, as for advice, only messages have an effect."""
        for action in actions:
            match action:
                case Say(text):
                    if trainer.is_global_zero:
                        print_lines(trainer, f"GradientNoiseScale: {text}")
                case Warn(text):
                    rank_zero_warn(f"GradientNoiseScale: {text}")
                case MeasureSizeAnew():
                    self._source.measured.resized()
                case MeasureEvery(steps):
                    self._source.measured.measure_every(steps)
                case _:
                    self._controls.perform(action)

    @property
    def _source(self) -> _Source:
        if self._open is None:
            reason = "a hook was called outside of fit; on_fit_start was skipped"
            raise RuntimeError(f"GradientNoiseScale: {reason}.")
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave out what belongs to a fit."""
        machine = self._adaptation
        return {
            "settings": machine.settings,
            "unit": machine.unit,
            "state": machine.state,
            "times": self._split.times,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        split = Split(saved["times"])
        self.__init__(saved["settings"], saved["unit"], split)  # type: ignore[misc]  # built anew
        self._adaptation.state = saved["state"]


def _alpha(trainer: L.Trainer) -> Alpha:
    return alpha_for(optimizer_kinds(trainer.optimizers[0]))


def _or_endless(limit: int | None) -> float:
    """One of Lightning's limits on training, where ``None`` and -1 mean that there is none."""
    if limit is None or limit < 0:
        return math.inf
    return limit
