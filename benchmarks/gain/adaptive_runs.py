"""One run to a goal: a plain loop at a fixed size, or Lightning's Trainer with the flag."""

import math
import time
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gain.adaptive_tasks import ADAPTIVE, Task
from benchmarks.gain.training import Smoothed
from benchmarks.harness.lightning_runs import SILENT
from lightning_noise import GradientNoiseScale

START = 16


class Run(NamedTuple):
    """One run. ``path`` holds a word for each period: size x steps, and after @ b_simple where
    resolved.
    """

    task: str
    kind: str
    size: int
    rate: float
    seed: int
    reached: int
    steps: int
    examples: int
    seconds: float
    path: str = ""


def run_fixed(task: Task, size: int, rate: float, seed: int, most_examples: float) -> Run:
    """A plain loop over shuffled epochs."""
    torch.manual_seed(seed)
    module, data, began = task.make(rate), task.tensors(), time.perf_counter()
    optimizer, order = module.configure_optimizers(), torch.Generator().manual_seed(seed)
    smoothed, steps, examples, reached, going = Smoothed(task.window), 0, 0, False, True
    while going:
        for chosen in torch.randperm(len(data[0]), generator=order).split(size):
            loss = module.training_step([tensor[chosen] for tensor in data], 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps, examples = steps + 1, examples + len(chosen)
            value = smoothed.update(loss.item(), len(chosen))
            reached = value <= task.goal
            going = not reached and math.isfinite(value) and examples < most_examples
            if not going:
                break
    return Run(
        task.name,
        "fixed",
        size,
        rate,
        seed,
        int(reached),
        steps,
        examples,
        round(time.perf_counter() - began, 2),
    )


class Watch(L.Callback):
    """Stops at the goal, and notes sizes and noise scales on the way."""

    def __init__(self, task: Task, most_examples: float, noise: GradientNoiseScale) -> None:
        self.task, self.most_examples, self.noise = task, most_examples, noise
        self.smoothed, self.examples, self.steps, self.reached = Smoothed(task.window), 0, 0, False
        self.periods, self.accumulation = [], 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.examples += len(batch[0])
        self._count(trainer, len(batch[0]) * trainer.accumulate_grad_batches, batch_idx)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
        value = self.smoothed.update(loss, len(batch[0]))
        self.reached = value <= self.task.goal
        trainer.should_stop = (
            self.reached or not math.isfinite(value) or self.examples >= self.most_examples
        )

    def _count(self, trainer: L.Trainer, size: int, batch_idx: int) -> None:
        if batch_idx == 0 or trainer.accumulate_grad_batches != self.accumulation:
            self._close()
            self.periods.append([size, 0, None])
            self.accumulation = trainer.accumulate_grad_batches
        self.periods[-1][1] += trainer.global_step - self.steps
        self.steps = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def _close(self) -> None:
        if self.periods:
            estimate = self.noise.estimate()
            self.periods[-1][2] = estimate.noise_scale if estimate else None

    def path(self) -> str:
        return " ".join(
            f"{size}x{steps}" + (f"@{b:.4g}" if b else "") for size, steps, b in self.periods
        )


def run_adaptive(task: Task, kind: str, rate: float, seed: int, most_examples: float) -> Run:
    """Lightning's Trainer with the flag; the batch size changes between epochs."""
    torch.manual_seed(seed)
    module, began = task.make(rate), time.perf_counter()
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(*task.tensors()), batch_size=START, shuffle=True, generator=order
    )
    noise = GradientNoiseScale(adaptive_batch_size=ADAPTIVE[kind]())
    watch = Watch(task, most_examples, noise)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=10_000,
        callbacks=[watch, noise],
        logger=False,
        **SILENT,
    )
    trainer.print = lambda *_, **__: None  # hundreds of verdicts
    trainer.fit(module, loader)
    seconds = round(time.perf_counter() - began, 2)
    return Run(
        task.name,
        kind,
        START,
        rate,
        seed,
        int(watch.reached),
        trainer.global_step,
        watch.examples,
        seconds,
        watch.path(),
    )
