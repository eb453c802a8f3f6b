"""A trainer's count of the batches of the running epoch, after its batch size has changed."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.epoch_sizes import Stretch, batches_for, examples_before
from lightning_noise.hosts.lightning.two_packages import either


class EpochCounts:
    """Keeps the counts of an epoch right whose batches have several sizes.

    These are the number of batches, the total of the progress bar and the next validation. Where
    ``limit_train_batches`` or ``val_check_interval`` is a fraction it is one of the examples; where
    it is an integer it counts batches, as in Lightning.

    Args:
        trainer: of the fit.
        times: micro-batches of one batch, by which all of Lightning's counts are multiplied.
        limit: the user's ``limit_train_batches``.
    """

    def __init__(self, trainer: L.Trainer, times: int, limit: float) -> None:
        self._trainer: Any = trainer  # L.Trainer does not declare the settings changed here
        self._times = times
        self._limit = limit

    def batches(self, examples: int | None, stretches: list[Stretch], *, drop_last: bool) -> float:
        """Batches of an epoch with these sizes, which the trainer will use.

        Args:
            examples: of the loader, on this rank; ``None`` where that is not known.
            stretches: the sizes of the batches.
            drop_last: whether a last short batch is dropped.
        """
        if examples is None:
            if isinstance(self._limit, int):
                return self._limit
            return math.inf
        batches = batches_for(examples, stretches, drop_last=drop_last)
        if isinstance(self._limit, int):
            return min(self._limit, batches)
        if self._limit == 1.0:
            return batches
        first = [Stretch(0, stretches[0].size)]
        whole = batches_for(examples, first, drop_last=drop_last)
        used = int(whole * self._limit) * first[0].size
        return min(batches, batches_for(used, stretches))

    def set_batches(self, batches: float) -> None:
        """The epoch has so many batches."""
        if math.isinf(batches):
            return
        trainer_facts.set_running_batches(self._trainer, int(batches) * self._times)
        _show_total(self._trainer)

    def place_validation(
        self, done: int, batches: float, whole: float, stretches: list[Stretch]
    ) -> None:
        """Sets the next validation to come in this epoch.

        Args:
            done: batches that have been trained on and, if they were to be, validated after.
            batches: of the epoch.
            whole: batches that the epoch would have at its first size.
            stretches: the sizes of the batches.
        """
        trainer = self._trainer
        share = trainer.val_check_interval
        by_time = trainer.val_check_batch is None or math.isinf(trainer.val_check_batch)
        if by_time or isinstance(share, int) or math.isinf(batches):
            return
        size = stretches[0].size
        every = max(1, int(whole * share)) * size  # examples
        end = int(whole) * size
        used = min(end, examples_before(done, stretches))
        target = (used // every + 1) * every
        due = min(int(batches), batches_for(target, stretches))
        if target > end:  # the last batch counts as a full one
            due = int(batches) + 1  # no other in this epoch
        trainer.val_check_batch = due * self._times


def _show_total(trainer: L.Trainer) -> None:
    """Lightning's progress bars read the total when an epoch begins."""
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, either(TQDMProgressBar)) and bar.is_enabled:
        bar.train_progress_bar.total = trainer.num_training_batches
        bar.train_progress_bar.refresh()
    if not isinstance(bar, either(RichProgressBar)) or bar.progress is None:
        return
    if bar.train_progress_bar_id is not None:
        bar.progress.update(bar.train_progress_bar_id, total=trainer.num_training_batches)
