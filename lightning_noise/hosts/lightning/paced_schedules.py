"""Schedules of a trainer that count optimizer steps, made to count examples during a fit."""

from typing import Any

import lightning as L
from torch.optim.lr_scheduler import LRScheduler

from lightning_noise.hosts.lightning.schedules import UNAFFECTED, ByExamples

PART = "lightning_noise_pace"  # of the schedule's own state


class Paced(ByExamples):
    """:class:`ByExamples` whose checkpoints can be read without it, and the other way round.

    Its state is that of the schedule, with one more entry.
    """

    def state_dict(self) -> dict[str, Any]:
        """The schedule's own state, and where this one stands."""
        own = super().state_dict()
        return {**own.pop("scheduler"), PART: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, or the state of the schedule alone."""
        saved = dict(state_dict)
        own = saved.pop(PART, None)
        if own is not None:
            super().load_state_dict({**own, "scheduler": saved})
            return
        self.scheduler.load_state_dict(saved)
        self._taken = max(0, self.scheduler.last_epoch)


class PacedSchedules:
    """Wraps a trainer's step schedules, and gives them back."""

    def __init__(self) -> None:
        self._wrapped: list[tuple[Any, LRScheduler]] = []  # Lightning's record and the schedule

    def install(self, trainer: L.Trainer) -> None:
        """Wraps every schedule that is stepped with the optimizer and can be."""
        self.remove()
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            counts_steps = config.interval == "step" and not config.reduce_on_plateau
            is_torch = isinstance(schedule, LRScheduler) and not isinstance(schedule, UNAFFECTED)
            if counts_steps and is_torch:
                self._wrapped.append((config, schedule))
                config.scheduler = Paced(schedule)

    def remove(self) -> None:
        """Restores the user's schedules; may be called twice."""
        for config, schedule in self._wrapped:
            config.scheduler = schedule
        self._wrapped.clear()
