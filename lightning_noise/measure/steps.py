"""Which backward passes make up an optimizer's step: announced by the host, or found out from the gradients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.measure.monitor import Monitor

TWO_PASSES = (
    "two backward passes over one batch made the gradient of one step of {name}: they are terms of one loss and not groups of "
    "examples. Add the losses up and call manual_backward once"
)
SHARED = (
    "{name} steps on a backward pass that {other} has stepped on before, and they share parameters: its gradient belongs to "
    "weights that are gone. Give each optimizer parameters of its own, or a backward pass of its own"
)
NOT_ZEROED = (
    "the gradient of {name} was not zeroed after its last step, so that it holds examples seen before. Call its zero_grad() "
    "before the backward pass"
)
IN_PART = (
    "the gradient of {name} was zeroed in part between two backward passes of one step, so that its parts belong to different "
    "examples. Call its zero_grad() for all of its parameters, or for none"
)
RANKS_TWICE = (
    "probe='ranks' sees only the last of several backward passes for one step of {name}. Use probe='micro_batches', or call "
    "manual_backward once a step"
)
SEVERAL_STEPS = (
    "{name} stepped several times within one batch: the number holds if each of these steps used as many examples as "
    "that batch has"
)
SEVERAL_PASSES = (
    "{name} evaluates the gradient several times per step: only the first evaluation, at the weights before the step, is "
    "measured and counted"
)
NO_PASS = (
    "no backward pass was seen before the step of {name}. Call self.manual_backward(loss) in place of loss.backward(), before "
    "the step"
)


class CannotMeasureError(ValueError):
    """What the first step shows can never give a right number; names the way out."""


class Steps(Protocol):
    """Turns the host's calls into calls of one or more monitors."""

    def batch(self) -> None:
        """A batch begins; its forward pass is still to come."""

    def begin(self, size: float | None, weight: float, examples: int | None, loss: Tensor) -> None:
        """A backward pass over ``size`` examples begins, from ``loss``."""

    def end(self, *, last: bool, loss_scale: Tensor | float | None) -> None:
        """It is over; ``last``: the optimizer steps next. Raises ``CannotMeasureError``."""

    def step(self, optimizer: Optimizer) -> None:
        """``optimizer`` is about to step. Raises ``CannotMeasureError``."""

    def rest(self) -> None:
        """The batch is over: no hook stays on a layer until the next begins."""


class AnnouncedSteps:
    """Steps of one optimizer where the host knows which backward pass is the last before it steps.

    An optimizer that evaluates its closure several times per step (SAM) makes several backward passes over one batch. The
    first one, at the weights before the step, is measured and the others are ignored.
    """

    def __init__(self, monitor: Monitor, optimizer: Optimizer) -> None:
        self._monitor = monitor
        self._optimizer = optimizer
        self._first = True
        self._seen = False  # a backward pass over the present batch
        self._rate: Tensor | float | None = None

    def batch(self) -> None:
        """Tells a probe that watches forward passes that one begins."""
        self._seen = False
        self._rate = learning_rate(self._optimizer)  # inside the step an adaptive factor may be on it
        self._monitor.prepare()

    def begin(self, size: float | None, weight: float, examples: int | None, loss: Tensor) -> None:
        """Opens the gate of the probe."""
        if self._seen:
            self._monitor.notes.add(SEVERAL_PASSES.format(name=type(self._optimizer).__name__))
        else:
            self._monitor.begin(size, weight, examples=examples, loss=loss)

    def end(self, *, last: bool, loss_scale: Tensor | float | None) -> None:
        """Closes the gate; after the last pass reads the gradient, still scaled and not yet clipped.

        Raises:
            CannotMeasureError: what a probe can only find out in its first backward pass.
        """
        if self._seen:
            return
        self._seen = True
        self._monitor.end()
        self.rest()
        if not last:
            return
        self._monitor.step(loss_scale=loss_scale, learning_rate=self._rate)
        refusal = self._monitor.probe_refusal if self._first else None
        self._first = False
        if refusal is not None:
            raise CannotMeasureError(refusal)

    def step(self, optimizer: Optimizer) -> None:  # noqa: ARG002  # there is one
        """A step whose last backward pass never came (``training_step`` returned ``None``) cannot be used."""
        self._monitor.discard()

    def rest(self) -> None:
        """The batch is over."""
        self._monitor.rest()


class FoundSteps:
    """Steps of any number of optimizers that a module makes by itself (manual optimization).

    A backward pass counts for an optimizer if it changed the gradient of one of its parameters, until the gradient is zeroed.
    Passes over several batches are micro-batches, whatever the module divides their losses by: the optimizer's gradient is
    taken as their mean. What cannot be right is refused in an optimizer's first step, and passed over and counted later.

    Args:
        monitors: each with the name of its optimizer.
        optimizers: in the same order.
    """

    def __init__(self, monitors: Iterable[tuple[str, Monitor]], optimizers: Iterable[Optimizer]) -> None:
        self._tracks = {
            id(optimizer): _Track(name, monitor, optimizer)
            for (name, monitor), optimizer in zip(monitors, optimizers, strict=True)
        }
        self._batch = self._pass = 0

    def batch(self) -> None:
        """Tells probes that watch forward passes that one begins."""
        self._batch += 1
        for track in self._tracks.values():
            track.monitor.prepare()

    def begin(
        self,
        size: float | None,
        weight: float,  # noqa: ARG002  # unknown here
        examples: int | None,
        loss: Tensor,
    ) -> None:
        """Opens the gates of all probes: whose pass it is shows when it is over.

        Whose loss it is, too; so with several optimizers no probe is given it.
        """
        self._pass += 1
        known = loss if len(self._tracks) == 1 else None
        for track in self._tracks.values():
            track.begin(size, examples, known)

    def end(self, *, last: bool, loss_scale: Tensor | float | None) -> None:  # noqa: ARG002  # unknown here
        """Closes the gates and reads the gradients that this pass has changed, still scaled and not yet clipped.

        Raises:
            CannotMeasureError: what a probe can only find out in its first backward pass.
        """
        for track in self._tracks.values():
            track.end(self._pass, self._batch, loss_scale)

    def step(self, optimizer: Optimizer) -> None:
        """Judges the passes that made the optimizer's gradient, and takes them as its step.

        Raises:
            CannotMeasureError: they cannot be right, and this is its first step.
        """
        track = self._tracks.get(id(optimizer))
        if track is not None:
            track.step([other for other in self._tracks.values() if other is not track])

    def rest(self) -> None:
        """The batch is over: until now the module may have called its layers once more."""
        for track in self._tracks.values():
            track.monitor.rest()


class _Pass(NamedTuple):
    """One backward pass that changed an optimizer's gradient."""

    row: Tensor | None
    fault: str | None
    size: float | None
    batch: int
    serial: int


Stamps = tuple[tuple[int, int] | None, ...]


@dataclass
class _Track:
    """One optimizer and the passes that made its present gradient."""

    name: str
    monitor: Monitor
    optimizer: Optimizer

    def __post_init__(self) -> None:
        self._passes: list[_Pass] = []
        self._used: set[int] = set()  # passes of the latest step
        self._before: Stamps = ()
        self._after: Stamps = ()
        self._stepped: Stamps = ()
        self._open = False
        self._size: float | None = None  # examples of the pass that is open
        self._fault: str | None = None
        self._counted = 0  # the latest batch whose examples were counted
        self._first = True

    @property
    def parameters(self) -> list[Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _stamps(self) -> Stamps:
        """What changes when a gradient is made, added to, zeroed or removed; nothing is read from the device."""
        return tuple(None if p.grad is None else (id(p.grad), p.grad._version) for p in self.parameters)

    def begin(self, size: float | None, examples: int | None, loss: Tensor | None) -> None:
        if not any(p.requires_grad for p in self.parameters):
            return  # toggled off
        self._before = self._stamps()
        if self._passes and self._before != self._after:
            self._passes, self._fault = [], IN_PART if self._zeroed_in_part() else None
        elif not self._passes:
            left = self._before == self._stepped and any(stamp is not None for stamp in self._before)
            self._fault = NOT_ZEROED if left else None
        self._open, self._size = True, size
        self.monitor.begin(size, 1.0, examples=examples, loss=loss)

    def _zeroed_in_part(self) -> bool:
        pairs = zip(self._after, self._before, strict=False)  # parameters may have been added
        return any(a == b for a, b in pairs if a is not None)

    def end(self, serial: int, batch: int, loss_scale: Tensor | float | None) -> None:
        if not self._open:
            return
        self._open = False
        self._after = self._stamps()
        if self._after == self._before:
            self.monitor.cancel()
            return
        row, fault = self.monitor.take(loss_scale=loss_scale)
        self._passes.append(_Pass(row, fault, self._size, batch, serial))
        refusal = self.monitor.probe_refusal if self._first else None
        if refusal is not None:
            raise CannotMeasureError(refusal)
        self.monitor.prepare()

    def step(self, others: Sequence["_Track"]) -> None:
        passes, self._passes = self._passes, []
        fault = self._judge(passes, others)
        self._stepped, self._used, self._fault = self._stamps(), {one.serial for one in passes}, None
        if fault is not None and self._first:
            raise CannotMeasureError(fault)
        self._first = False
        if any(one.batch <= self._counted for one in passes):
            self.monitor.notes.add(SEVERAL_STEPS.format(name=self._said))
        used = sum(one.size or 0.0 for one in passes)
        new = sum(one.size or 0.0 for one in passes if one.batch > self._counted)
        self._counted = max([self._counted, *(one.batch for one in passes)])
        fault = fault or next((one.fault for one in passes if one.fault is not None), None)
        self.monitor.commit(
            combine([one.row for one in passes]),
            fault=fault,
            used=used,
            new=new,
            learning_rate=learning_rate(self.optimizer),
        )
        self.monitor.prepare()

    def _judge(self, passes: Sequence[_Pass], others: Iterable["_Track"]) -> str | None:
        """Why these passes cannot be groups of one step."""
        if not passes:
            return NO_PASS.format(name=self._said)
        if len({one.batch for one in passes}) < len(passes):
            return TWO_PASSES.format(name=self._said)
        if len(passes) > 1 and getattr(self.monitor.probe, "name", "") == "ranks":
            return RANKS_TWICE.format(name=self._said)
        mine = {id(p) for p in self.parameters}
        for other in others:
            if not other._used.isdisjoint(one.serial for one in passes) and not mine.isdisjoint(map(id, other.parameters)):
                return SHARED.format(name=self._said, other=other._said)
        return self._fault.format(name=self._said) if self._fault is not None else None

    @property
    def _said(self) -> str:
        return self.name or type(self.optimizer).__name__


def learning_rate(optimizer: Optimizer) -> Tensor | float | None:
    """Learning rate of the first parameter group; a copy where it is a tensor, which is not read here."""
    rate = optimizer.param_groups[0].get("lr") if optimizer.param_groups else None
    return rate.detach().clone() if isinstance(rate, Tensor) else rate


def combine(rows: Sequence[Tensor | None]) -> Tensor | None:
    """Moments of a step of K micro-batches of equal weight from what each backward pass gave alone.

    Args:
        rows: of every pass, in order, (keys, 4), as if its loss had weight 1; ``q_big`` from the gradient accumulated so far.
            ``None`` where a pass cannot be used.

    Returns:
        (keys, 4) in units of the accumulated gradient, which is the mean over the groups: each group's gradient is K times
        what its pass added. ``None`` where any is.

    >>> combine([torch.tensor([[4.0, 4.0, 1.0, 1.0]]), torch.tensor([[9.0, 25.0, 1.0, 1.0]])])
    tensor([[26.0000, 25.0000,  1.0000,  0.5000]])
    """
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or not known:
        return None
    count = len(known)
    total = torch.stack(known).sum(dim=0)
    row = total.clone()
    row[:, 0] = total[:, 0] * count
    row[:, 1] = known[-1][:, 1]
    row[:, 2] = total[:, 2] / count
    row[:, 3] = total[:, 3] / count**2
    return row
