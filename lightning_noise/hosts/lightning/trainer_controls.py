"""The parts of a trainer that adapting changes, held during a fit and restored after it."""

from fractions import Fraction
from typing import NamedTuple

import lightning as L

from lightning_noise.adapt.actions import (
    Action,
    ChangeInside,
    SetAccumulation,
    SetBatch,
    SetPace,
    SetRateFactor,
)
from lightning_noise.adapt.size_plan import BatchPlan, Bounds
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.inside_epoch import InsideEpoch
from lightning_noise.hosts.lightning.loaders import Resizer, bounds, local_size, training_loaders
from lightning_noise.hosts.lightning.schedules import set_pace
from lightning_noise.hosts.lightning.split import Split
from lightning_noise.hosts.rate_factor import LearningRateFactor


class _Held(NamedTuple):
    """What is held of a trainer while a fit is open."""

    trainer: L.Trainer
    rate: LearningRateFactor
    own_accumulation: int


class TrainerControls:
    """Performs the actions that change a trainer. Where none is held, they change nothing.

    Args:
        split: of the batches; accumulation is counted here in batches, and set in micro-batches.

    Attributes:
        inside: the running epoch.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.inside = InsideEpoch(split, lambda: self._resizer.ratio)
        self._resizer = Resizer(self.inside, split)
        self._held: _Held | None = None

    def take(self, trainer: L.Trainer) -> None:
        """Holds the loaders, the accumulation and the learning rate of a trainer."""
        self.release()
        self.inside.take(trainer)
        self._resizer.install(trainer)
        rate = LearningRateFactor(trainer.optimizers[0])
        own = trainer.accumulate_grad_batches // self._split.times
        self._held = _Held(trainer, rate, own)

    def release(self) -> None:
        """Restores the trainer and the loaders; may be called twice."""
        if self._held is not None:
            self.inside.release()
        self._resizer.remove()
        if self._held is not None:
            self._accumulate(self._held.own_accumulation, self._held.trainer)
            self._held.rate.close()
            self._held = None

    def perform(self, action: Action) -> None:
        """Changes what the action names."""
        if self._held is None:
            return
        match action:
            case SetBatch(ratio):
                self._resizer.ratio = ratio
            case ChangeInside(ratio, accumulation):
                self._change_inside(ratio, accumulation)
            case SetAccumulation(micro_batches):
                self._accumulate(micro_batches, self._held.trainer)
            case SetRateFactor(rate_factor):
                self._held.rate.factor = rate_factor
            case SetPace(pace):
                set_pace(self._held.trainer, pace)

    def _change_inside(self, ratio: Fraction, accumulation: int) -> None:
        if self._held is None:
            return
        present = self._held.trainer.accumulate_grad_batches // self._split.times
        self.inside.change(ratio, (present, accumulation))

    def _accumulate(self, batches: int, trainer: L.Trainer) -> None:
        trainer.accumulate_grad_batches = batches * self._split.times

    def go_back(self, first: int) -> None:
        """Prepares batches of the present size anew from the batch ``first`` of the epoch on, for a
        step that has failed.
        """
        if self._held is not None:
            self._held.rate.restore()
            self.inside.go_back(first)

    @property
    def first_of_step(self) -> int:
        """The first batch of the step in progress, by its number in the epoch."""
        if self._held is None:
            return 0
        trainer = self._held.trainer
        done = trainer_facts.batches_done(trainer) - 1
        return done - done % trainer.accumulate_grad_batches

    def start(self) -> BatchPlan | None:
        """The sizes that the user gave; ``None`` where nothing is held.

        Raises:
            LoaderError: the batch size of a loader cannot be changed.
        """
        if self._held is None:
            return None
        trainer = self._held.trainer
        first = training_loaders(trainer)[0]
        size = self._resizer.original_size(first)
        return BatchPlan(size, self._held.own_accumulation, trainer.world_size)

    def bounds(self, max_local_size: int | None) -> Bounds:
        """What the loaders allow; nothing bounds what is not held.

        Raises:
            LoaderError: the batch size of a loader cannot be changed.
        """
        if self._held is None:
            return Bounds()
        loaders = training_loaders(self._held.trainer)
        sizes = [self._resizer.original_size(loader) for loader in loaders]
        return bounds(self._held.trainer, loaders, sizes, max_local_size, self._split)

    def prepare_before_start(self) -> None:
        """Before the first epoch of a fit: loaders of another batch size are prepared again."""
        held = self._held
        if held is None:
            return
        stale = self._has_other_size(held.trainer)
        was_other = self.inside.prepare()
        if stale or was_other or self.inside.misses_loaders:
            trainer_facts.forget_training_loaders(held.trainer)
            trainer_facts.set_up_training_loaders(held.trainer)
        if trainer_facts.inside_epoch(held.trainer):
            self.inside.settle()

    def prepare_between_epochs(self) -> None:
        """Loaders of another batch size are prepared again before the next epoch."""
        held = self._held
        if held is None:
            return
        if self._has_other_size(held.trainer) or self.inside.sizes.changes:
            self._resizer.reload_next_epoch()
        self.inside.restart(between=True)

    def _has_other_size(self, trainer: L.Trainer) -> bool:
        first = training_loaders(trainer)[0]
        return local_size(first) != self._resizer.wanted_size(first)

    def settle(self) -> None:
        """The loaders of an epoch are prepared: restores the trainer's own reload setting."""
        self._resizer.settle()
        self.inside.begin_epoch()
