"""The callback that reads the goals' metrics and ends a run when all goals are decided."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import lightning as L
import torch

from lightning_noise.hosts.lightning.two_packages import Callback
from lightning_noise.report.terms import DIVERGED
from lightning_noise.study.goal import Goal, GoalOutcome, GoalWatch
from lightning_noise.study.task import Series


class WatchGoals(Callback):
    """Follows ``goals`` during ``fit``.

    Args:
        goals: to follow.
        global_size: examples in one optimizer step.
        early_stop: ends the run once every goal is reached or has diverged.
        last_step: ends the run after it. The trainer's own ``max_steps`` stays the budget, which
            learning-rate schedules see.
    """

    def __init__(
        self,
        goals: Iterable[Goal],
        global_size: int,
        *,
        early_stop: bool,
        last_step: int,
    ) -> None:
        self.watches = {}
        for goal in goals:
            self.watches[goal] = GoalWatch(goal)
        self.loss_failed: int | None = None
        self.stopped = False  # before the steps were used up, because all goals were decided
        self._global_size = global_size
        self._early_stop = early_stop
        self._last_step = last_step
        self._read_at: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self._losses: list[float] = []  # of the micro-batches of the current step
        self._steps = 0
        self._batches = 0

    def outcomes(self) -> dict[Goal, GoalOutcome]:
        """The result of every goal."""
        found = {}
        for goal, watch in self.watches.items():
            found[goal] = watch.outcome()
        return found

    @property
    def readings(self) -> dict[tuple[str, str], Series]:
        """("validation" or "train", metric) → its readings."""
        found = {}
        for which, pairs in self._read_at.items():
            steps, values = zip(*pairs, strict=True)
            found[which] = Series(steps, values)
        return found

    @property
    def all_diverged(self) -> bool:
        """Whether no goal was reached and none can be."""
        return all(outcome.status == DIVERGED for outcome in self.outcomes().values())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Reads the training metrics: those of the weights before the step."""
        self._batches += 1
        loss = outputs
        if isinstance(outputs, Mapping):
            loss = outputs.get("loss")
        if isinstance(loss, torch.Tensor):
            self._losses.append(float(loss))
        if trainer.global_step == self._steps:
            return
        self._read(trainer, "train", self._steps)
        self._steps = trainer.global_step
        self._losses = []
        self._end_if_decided(trainer)
        if self._steps >= self._last_step:  # a validation that is due now still comes
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reads the validation metrics, also those of the sanity check: the reading at step 0."""
        if self._is_extra(trainer):
            return
        self._read(trainer, "validation", trainer.global_step)
        self._end_if_decided(trainer)

    def _is_extra(self, trainer: L.Trainer) -> bool:
        """Whether this validation only comes because the run ends: a longer run lacks it."""
        if not trainer.should_stop or trainer.check_val_every_n_epoch is not None:
            return False
        interval = trainer.val_check_batch  # None where the loop has not been set up
        return interval is not None and self._batches % interval != 0

    def _read(self, trainer: L.Trainer, on: str, step: int) -> None:
        # Lightning gives the loss of a micro-batch divided by their number in a step
        loss = None
        if self._losses:
            loss = fmean(self._losses) * trainer.accumulate_grad_batches
        if on == "train" and loss is not None and not math.isfinite(loss):
            self._fail(trainer.global_step)
        values = {}
        if on == "validation":  # all that is logged, for goals that a study is given later
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for watch in self.watches.values():
            if watch.goal.on == on:
                value = self._value(trainer, watch.goal, loss)
                watch.update(step, step * self._global_size, value)
                values[watch.goal.metric] = value
        for metric, value in values.items():
            self._read_at.setdefault((on, metric), []).append((step, value))

    def _fail(self, step: int) -> None:
        if self.loss_failed is None:
            self.loss_failed = step
        for watch in self.watches.values():
            watch.fail()

    def _value(self, trainer: L.Trainer, goal: Goal, loss: float | None) -> float:
        if goal.on == "train" and goal.metric == "loss" and loss is not None:
            return loss
        if goal.metric not in trainer.callback_metrics:
            logged = sorted(trainer.callback_metrics)
            step = "validation_step"
            if goal.on == "train":
                step = "training_step"
            fix = f"Log it in {step} under that name"
            metric = f"the goal's metric {goal.metric!r}"
            raise ValueError(f"{metric} is not among the logged ones {logged}. {fix}.")
        return float(trainer.callback_metrics[goal.metric])

    def _end_if_decided(self, trainer: L.Trainer) -> None:
        open_goals = [watch for watch in self.watches.values() if not watch.decided]
        decided = self._early_stop and not open_goals
        if decided or self.all_diverged:
            self.stopped = True
            trainer.should_stop = True
