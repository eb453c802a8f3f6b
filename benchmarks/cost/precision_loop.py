"""One training loop at fixed weights, measured in one way, for ``precision``."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.cost.precision_tasks import Batch, Task, prepared
from benchmarks.harness.rounds import Stopwatch
from lightning_noise.hosts.loop import Monitor
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Probe


class Variant(NamedTuple):
    """A way to measure.

    Args:
        probe: (model, seed of its random signs) → the probe.
        parts: micro-batches that the batch of a step is divided into.
    """

    name: str
    probe: Callable[[nn.Module, int], Probe]
    parts: int = 1


def examples(**options: int) -> Callable[[nn.Module, int], Probe]:
    """The probe of single examples."""

    def make(module: nn.Module, seed: int) -> Probe:
        probe = Examples(**options)
        probe.bind(module, seed=seed)
        return probe

    return make


def micro_batches(*_: object) -> Probe:
    """That of micro-batches, which has nothing random."""
    return MicroBatches()


DEFAULT, EXACT = "examples, 1 sketch", "examples, exact norms"
VARIANTS = (
    Variant(DEFAULT, examples(sketches=1)),
    Variant("examples, 2 sketches", examples(sketches=2)),
    Variant("examples, 4 sketches", examples(sketches=4)),
    Variant(EXACT, examples(exact=True)),
    *(Variant(f"micro_batches, {parts}", micro_batches, parts) for parts in (2, 4, 8)),
)


class Plain:
    """Steps without a measurement, in a copy of the model that has been trained."""

    def __init__(self, task: Task, parts: int) -> None:
        self.module = copy.deepcopy(prepared(task))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.0)
        self._loss, self._parts = task.loss, parts

    def step(self, batch: Batch) -> None:
        """Forward and backward passes, and an optimizer that keeps the weights."""
        self.optimizer.zero_grad()
        for part in batch.parts(self._parts):
            self.backward(part)
        self.optimizer.step()

    def backward(self, part: Batch) -> None:
        """Adds the gradient of a micro-batch."""
        self._loss(self.module, part).div(self._parts).backward()


class Measured(Plain):
    """One of every so many steps is measured."""

    def __init__(self, task: Task, variant: Variant, *, every: int = 1, seed: int = 0) -> None:
        super().__init__(task, variant.parts)
        probe = variant.probe(self.module, seed)
        self.monitor = Monitor(probe, every_n_steps=every)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Steps are taken inside."""
        with self.monitor.attach(dict(self.module.named_parameters())):
            yield

    def step(self, batch: Batch, calls: Stopwatch | None = None) -> None:
        """One step; ``calls`` counts what the monitor takes of it outside of the passes."""
        counted = nullcontext if calls is None else calls.running
        self.optimizer.zero_grad()
        for part in batch.parts(self._parts):
            with counted():
                self.monitor.begin(len(part.inputs), 1 / self._parts)
            self.backward(part)
            with counted():
                self.monitor.end()
        with counted():
            self.monitor.step()
        if self.monitor.pending:
            self.monitor.flush()
        self.optimizer.step()
