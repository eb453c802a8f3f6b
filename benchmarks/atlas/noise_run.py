"""One run of a task whose noise scales are measured along the way."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch

from benchmarks.atlas.task import Task
from benchmarks.harness.lightning_runs import SILENT, quiet_lightning
from lightning_noise import GradientNoiseScale, Moments
from lightning_noise.measure.readings import Reading
from lightning_noise.study.goal import GoalOutcome
from lightning_noise.study.goal_watch import WatchGoals

MICRO_BATCHES = 8  # of a step: every geometry can be measured from these


@dataclass
class Measured:
    """What a run gives.

    Args:
        losses: training loss of every step.
        moments: by geometry, those of the measured steps by their number, from 0.
        outcomes: by name of the goal.
    """

    losses: list[float] = field(default_factory=list)
    moments: dict[str, dict[int, Moments]] = field(default_factory=lambda: defaultdict(dict))
    outcomes: dict[str, GoalOutcome] = field(default_factory=dict)


class Recorder(L.Callback):
    """Keeps loss and moments of every step; to come after ``noise``."""

    def __init__(self, noise: GradientNoiseScale) -> None:
        self.found = Measured()
        self._noise = noise
        self._loss = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._noise.session.observe(self._take)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self._loss += float(outputs["loss"])  # already divided by the number of micro-batches
        if trainer.global_step == len(self.found.losses):
            return  # in the middle of an accumulation
        self._noise.session.read()  # so that every reading is one of this step
        self.found.losses.append(self._loss)
        self._loss = 0.0

    def _take(self, reading: Reading) -> None:
        self.found.moments[reading.key.geometry][len(self.found.losses)] = reading.moments


def run(task: Task, global_size: int, learning_rate: float, seed: int) -> Measured:
    """Trains until all goals of the task are decided, or its budget ends."""
    study = task.study()
    noise = GradientNoiseScale(
        "micro_batches",
        geometry=("euclidean", *task.geometries),
        every_n_steps=task.every_n_steps,
        loss_fn=task.loss_and_outputs,
        verbose=False,
        figures=False,
    )
    recorder = Recorder(noise)
    last_step = study.recipe.budget_steps[global_size]
    watch = WatchGoals(task.all_goals, global_size, early_stop=True, last_step=last_step)
    validations: dict[str, Any] = {"limit_val_batches": 0, "num_sanity_val_steps": 0}
    if any(goal.on == "validation" for goal in task.all_goals):
        interval = study.recipe.validate_every[global_size] * MICRO_BATCHES
        validations = {"val_check_interval": interval, "num_sanity_val_steps": -1}
    with quiet_lightning(), torch.random.fork_rng():
        L.seed_everything(seed, verbose=False)
        data = task.make_data(global_size // MICRO_BATCHES, seed)
        loaders = data if isinstance(data, tuple) else (data,)
        whole = len(loaders[0]) // MICRO_BATCHES * MICRO_BATCHES  # no smaller step ends an epoch
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            max_epochs=-1,
            max_steps=last_step,
            accumulate_grad_batches=MICRO_BATCHES,
            limit_train_batches=whole,
            check_val_every_n_epoch=None,
            callbacks=[watch, noise, recorder],
            **validations,
            **SILENT,
        )
        trainer.fit(task.make_module({"learning_rate": learning_rate}), *loaders)
    found = recorder.found
    found.outcomes = {goal.name: outcome for goal, outcome in watch.outcomes().items()}
    return found
