"""What adapting watches of every optimizer step: how long it took, and its loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.step_clock import StepClock

LOSSES = 25  # optimizer steps whose losses are read together
PART = "losses"  # of the callback's state

TakeLosses = Callable[[Sequence[float]], None]


class StepWatch:
    """Times the steps of rank 0, and collects losses until they are read together.

    Args:
        adaptation: what needs the durations and losses.
    """

    def __init__(self, adaptation: Adaptation) -> None:
        self._adaptation = adaptation
        self._trainer: L.Trainer | None = None  # while a fit is open
        self._clock: StepClock | None = None
        self._plan: BatchPlan | None = None  # of the steps that are timed
        self._micro_batches: list[Tensor] = []  # losses of the step that is open
        self._pending: list[Tensor] = []  # losses not yet read
        self._steps = 0  # since losses were read; alike on all ranks, unlike the losses

    def open(self, trainer: L.Trainer) -> None:
        """A fit begins."""
        self._trainer = trainer
        self._micro_batches.clear()
        self._plan = None
        self._clock = None
        if self._adaptation.needs_clock and trainer.is_global_zero:
            self._clock = StepClock(trainer.strategy.root_device)

    def forget(self) -> None:
        """Forgets what was not read, for a fit of another module."""
        self._pending.clear()
        self._steps = 0

    def close(self) -> None:
        """A fit ends, and with it what was not read."""
        self._trainer = None
        self._clock = None
        self.forget()

    def interrupt(self) -> None:
        """Something else than a step begins: validation, a checkpoint, an epoch."""
        if self._clock is not None:
            self._clock.interrupt()

    def abandon_step(self) -> None:
        """The step that is open failed and is made again: forgets its losses and its time."""
        self._micro_batches.clear()
        self.interrupt()

    def batch_done(
        self, trainer: L.Trainer, outputs: object, *, measured: bool
    ) -> list[float] | None:
        """A batch has been trained on.

        Args:
            trainer: of the fit.
            outputs: of the batch, as Lightning passes them to callbacks.
            measured: whether the gradients of the latest optimizer step were measured.

        Returns:
            The losses of the latest optimizer steps where they are due, on all ranks at the same
            step, else ``None``.
        """
        loss = _loss(outputs)
        if loss is not None and self._adaptation.watches_losses:
            self._micro_batches.append(loss)
        if not trainer_facts.ends_step(trainer):
            return None
        self._time_step(measured=measured)
        if not self._adaptation.watches_losses:
            return None
        if self._micro_batches:
            # Lightning divides the loss of each micro-batch by their number
            self._pending.append(torch.stack(self._micro_batches).sum())
            self._micro_batches.clear()
        self._steps += 1
        if self._steps < LOSSES:
            return None
        losses = self._read_losses()
        self.forget()
        return losses

    def _read_losses(self) -> list[float]:
        if not self._pending:
            return []
        return [float(loss) for loss in torch.stack(self._pending).tolist()]

    def _time_step(self, *, measured: bool) -> None:
        if self._clock is None:
            return
        sizes = self._adaptation.state.sizes
        plan = None
        if sizes is not None:
            plan = sizes.current
        if plan != self._plan:
            self._plan = plan
            self._clock.change()
        self._clock.step_done(measured=measured)

    def read_times(self) -> None:
        """Passes the durations of the latest steps on; on rank 0, where there is a clock."""
        sizes = self._adaptation.state.sizes
        if self._clock is None or sizes is None or sizes.current != self._plan:
            return
        self._adaptation.timed(*self._clock.read())

    def state_dict(self) -> dict[str, Any]:
        """Losses that were not yet read, as plain numbers; empty where there are none.

        Those of rank 0, on all ranks: a collective.
        """
        if not self._steps:
            return {}
        values = self._read_losses()
        if self._trainer is not None:
            values = self._trainer.strategy.broadcast(values)
        return {PART: {"steps": self._steps, "values": values}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` from the state of the callback."""
        saved = state.get(PART, {"steps": 0, "values": []})
        self._steps = saved["steps"]
        self._pending = [torch.tensor(loss) for loss in saved["values"]]


def _loss(outputs: object) -> Tensor | None:
    loss = outputs
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    if not isinstance(loss, Tensor):
        return None
    return loss.detach().float()
