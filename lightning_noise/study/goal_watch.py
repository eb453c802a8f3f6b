"""The callback that reads the goals' metrics from a trainer and ends the run when nothing is left to find out."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import lightning as L
import torch

from lightning_noise.hosts.lightning.two_packages import Callback
from lightning_noise.study.goal import Goal, GoalOutcome, GoalWatch


class WatchGoals(Callback):
    """Follows ``goals`` during ``fit``.

    Args:
        goals: by their position in the study.
        global_size: examples in one optimizer step.
        early_stop: ends the run once every goal is reached or has diverged.
        last_step: ends the run after it. The trainer's own ``max_steps`` stays the budget, which learning-rate schedules see.
    """

    def __init__(self, goals: Mapping[int, Goal], global_size: int, *, early_stop: bool, last_step: int) -> None:
        self.watches = {i: GoalWatch(goal) for i, goal in goals.items()}
        self.readings = 0
        self.stopped = False  # before the steps were used up, because nothing was left to find out
        self._global_size = global_size
        self._early_stop = early_stop
        self._last_step = last_step
        self._losses: list[float] = []  # of the micro-batches of the present step
        self._steps = 0

    def outcomes(self) -> dict[int, GoalOutcome]:
        """What came of every goal."""
        return {i: watch.outcome() for i, watch in self.watches.items()}

    @property
    def all_diverged(self) -> bool:
        """Whether no goal was reached and none can be."""
        return all(outcome.status == "diverged" for outcome in self.outcomes().values())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A training reading belongs to the weights from before the step that it comes from."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            self._losses.append(float(loss))
        if trainer.global_step == self._steps:
            return
        self._read(trainer, "train", self._steps)
        self._steps, self._losses = trainer.global_step, []
        self._end_if_decided(trainer)
        if self._steps >= self._last_step:  # a validation that is due now still comes
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reads the validation metrics; of the sanity check too, which is the reading at step 0."""
        self._read(trainer, "validation", trainer.global_step)
        self._end_if_decided(trainer)

    def _read(self, trainer: L.Trainer, on: str, step: int) -> None:
        # Lightning hands out the loss of a micro-batch divided by the number of micro-batches in a step
        loss = fmean(self._losses) * trainer.accumulate_grad_batches if self._losses else None
        for watch in self.watches.values():
            examples = step * self._global_size
            if on == "train" and loss is not None:
                watch.update_loss(examples, loss)
            if watch.goal.on == on:
                watch.update(step, examples, self._value(trainer, watch.goal, loss))
                self.readings += 1

    def _value(self, trainer: L.Trainer, goal: Goal, loss: float | None) -> float:
        if goal.on == "train" and goal.metric == "loss" and loss is not None:
            return loss
        if goal.metric not in trainer.callback_metrics:
            raise ValueError(
                f"the goal's metric {goal.metric!r} is not among the logged ones {sorted(trainer.callback_metrics)}. "
                f"Log it in {'training_step' if goal.on == 'train' else 'validation_step'} under that name."
            )
        return float(trainer.callback_metrics[goal.metric])

    def _end_if_decided(self, trainer: L.Trainer) -> None:
        diverged = self.all_diverged
        if diverged or (self._early_stop and all(watch.decided for watch in self.watches.values())):
            self.stopped = True
            trainer.should_stop = True
