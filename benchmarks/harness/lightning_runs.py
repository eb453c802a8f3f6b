"""Runs of Lightning that are measured: nothing else switched on, and nothing said."""

import contextlib
import gc
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness.models import EncoderLM, Transformer
from benchmarks.harness.rounds import Stopwatch, Times

SILENT = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Variant(NamedTuple):
    """One way to train: callbacks, made afresh for each fit, options for the trainer, and the
    variant it is compared with.
    """

    name: str
    callbacks: Callable[[], list[Callback]]
    trainer_options: Mapping[str, Any] = {}
    baseline: str = "no callback"


class Trained(L.LightningModule):
    """Trains a language model with AdamW, and logs its loss."""

    def __init__(self, model: Transformer | EncoderLM, *, fused_optimizer: bool = False) -> None:
        super().__init__()
        self.model, self.fused_optimizer = model, fused_optimizer or None

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        loss = self.model.loss(batch[0])  # (local_size, context + 1)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-5, fused=self.fused_optimizer)


def fit(
    module: L.LightningModule, loader: DataLoader, *callbacks: Callback, **options: Any
) -> None:
    """Trains with a log step every ten and nothing else switched on."""
    trainer = L.Trainer(
        **{"accelerator": "cpu", "devices": 1, "log_every_n_steps": 10} | options,
        logger=DummyLogger(),
        callbacks=list(callbacks),
        **SILENT,
    )
    gc.collect()
    with quiet_lightning(), contextlib.redirect_stdout(io.StringIO()):  # the verdict
        trainer.fit(module, loader)


class StepClock(Callback):
    """Times of a step, from the end of the untimed steps to the end of the last; to be the last of
    the callbacks.

    An accelerator is waited for at both ends, and nowhere else.
    """

    def __init__(self, untimed: int, timed: int) -> None:
        self._ends, self._timed = (untimed, untimed + timed), timed
        self._steps = 0
        self._running = contextlib.ExitStack()
        self.watch = Stopwatch()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self._steps:
            return  # in the middle of an accumulation
        self._steps = trainer.global_step
        if self._steps not in self._ends:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._steps == self._ends[0]:
            self._running.enter_context(self.watch.running())
        else:
            self._running.close()

    @property
    def times(self) -> Times:
        """Of one step; NaN where the run did not come to its end."""
        if self._steps < self._ends[1]:
            return Times(math.nan, math.nan, self.watch.load)
        return self.watch.per_step(self._timed)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without the remarks that Lightning makes on every fit."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 on torch 2.13
            yield
    finally:
        logger.setLevel(level)
