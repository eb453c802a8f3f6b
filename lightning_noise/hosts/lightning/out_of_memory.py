"""Goes on with a smaller batch where memory does not hold the present one."""

import gc
import sys
import warnings
from abc import ABC, abstractmethod
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

from lightning_noise.hosts.lightning import trainer_facts

CPU_TEXTS = ("DefaultCPUAllocator", "not enough memory", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the device or of the host, did not suffice.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    True
    >>> is_out_of_memory(RuntimeError("shape mismatch"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError) or is_oom_error(error):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_TEXTS)


def _note(error: BaseException, reason: str) -> None:
    """Adds the fix to an error. Python 3.10 has no notes, so there it is a warning."""
    if sys.version_info >= (3, 11):
        error.add_note(reason)
    else:
        warnings.warn(reason, stacklevel=2)


class Redo(ABC):
    """What a guard needs to make a step that ran out of memory again."""

    @property
    @abstractmethod
    def has_grown(self) -> bool:
        """Whether there is a smaller batch size to go back to."""

    @abstractmethod
    def reason(self) -> str:
        """Why the step cannot be made again, with the fix; "" where it can."""

    @abstractmethod
    def go_back(self) -> int:
        """Prepares smaller batches from the first of the step on; returns its number."""

    @abstractmethod
    def batch_starts(self, batch: Any) -> None:
        """A batch that the trainer does not announce is about to go forward."""

    @abstractmethod
    def batch_ends(self) -> None:
        """All passes over it are over."""


class MemoryGuard:
    """Makes an optimizer step again with smaller batches, when memory did not hold its batch.

    The error is caught where Lightning runs forward pass, backward pass and optimizer of a batch:
    all of that has ended, and its memory is free, before the step is made again. No optimizer has
    stepped, and the gradients of the step are zeroed. The examples of the step come again, in
    smaller batches; hooks that were called for the large batch are not called again.

    Args:
        redo: how a step is made again.
    """

    def __init__(self, redo: Redo) -> None:
        self._redo = redo
        self._trainer: L.Trainer | None = None

    def install(self, trainer: L.Trainer) -> None:
        """Watches the steps of a trainer."""
        self._trainer = trainer
        # no public way: a hook would have to run inside the step that fails
        loop: Any = trainer.fit_loop.epoch_loop.automatic_optimization
        run = loop.run

        def guarded(optimizer: Any, batch_idx: int, kwargs: Any) -> Any:
            try:
                return run(optimizer, batch_idx, kwargs)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._redo.has_grown:
                    raise
                reason = self._redo.reason()
                if reason:
                    _note(error, reason)
                    raise
            # the error, and with it the frames that hold tensors of the step, is gone by now
            return self._again(trainer, run, kwargs)

        loop.run = guarded

    def remove(self) -> None:
        """Restores the trainer; may be called twice."""
        if self._trainer is not None:
            loop = self._trainer.fit_loop.epoch_loop.automatic_optimization
            vars(loop).pop("run", None)
            self._trainer = None

    def _again(self, trainer: L.Trainer, run: Any, kwargs: Any) -> Any:
        optimizer = trainer.optimizers[0]
        kwargs["batch"] = None
        optimizer.zero_grad(set_to_none=True)
        module: Any = trainer.lightning_module
        module._current_fx_name = "on_train_batch_start"  # the error has left the name of its hook
        gc.collect()
        garbage_collection_cuda()
        first = self._redo.go_back()
        done = trainer_facts.batches_done(trainer)
        outputs = None
        for index in range(first, done):  # the batches of the step so far, and the present one
            kwargs["batch"] = trainer_facts.next_batch(trainer)
            if "batch_idx" in kwargs:
                kwargs["batch_idx"] = index
            trainer_facts.set_batches_done(trainer, index + 1)
            self._redo.batch_starts(kwargs["batch"])
            outputs = run(optimizer, index, kwargs)
            if index + 1 < done:
                self._redo.batch_ends()
        return outputs
