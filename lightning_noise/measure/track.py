"""One optimizer under measurement: micro-batches and steps in, partial rows of moments out."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.moments import Key
from lightning_noise.measure.open_step import OpenStep
from lightning_noise.measure.pending_rows import NO_SIZE, PendingRow, PendingRows
from lightning_noise.probes.probe import Context, Offer, Probe
from lightning_noise.probes.rows import unscaled, unusable

NO_BACKWARD = "the backward pass before the optimizer's step was missing"
CHANGED = (
    "the parameters that are trained changed during the run: the averages are of those before "
    "the change, too, until enough steps have followed"
)


class Track:
    """The optimizer steps of one optimizer, seen by one probe.

    Args:
        name: of the optimizer; "" where there is one.
        probe: how the groups of a step are seen.
        offer: what the groups are.
        keys: for each number wanted, the names of the parameters it is summed over.
        rows: where the rows go.
        context: what the probe is given.
        every_n_steps: measures the first of every so many optimizer steps.
        optimizer: whose steps these are; ``None`` where the host does not say.
    """

    def __init__(
        self,
        name: str,
        probe: Probe,
        offer: Offer,
        keys: Mapping[Key, Sequence[str]],
        rows: PendingRows,
        *,
        context: Context = Context(),
        every_n_steps: int = 1,
        optimizer: Optimizer | None = None,
    ) -> None:
        self.name, self.probe, self.offer, self.optimizer = name, probe, offer, optimizer
        self.keys = dict(keys)
        self.notes: set[str] = set()  # reasons for doubt, in words for the user
        self.optimizer_steps = 0
        self._rows, self._context, self._every_n_steps = rows, context, every_n_steps
        self._open: OpenStep | None = None
        self._parameters: dict[str, Parameter] = {}
        self._attached: tuple[tuple[str, int], ...] | None = None
        self._seen: tuple[tuple[str, int], ...] = ()  # trainable when last looked
        self._stack = ExitStack()
        rows.open(name)

    # What is watched

    def watch(self, parameters: Mapping[str, Parameter]) -> None:
        """Names the parameters to watch from the next optimizer step on; frozen ones are skipped
        while they are frozen.
        """
        self._parameters = dict(parameters)

    @property
    def named_keys(self) -> list[Key]:
        """The keys, with the name of the optimizer."""
        return [key._replace(optimizer=self.name) for key in self.keys]

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next((p.device for p in self._parameters.values()), torch.device("cpu"))

    @property
    def in_step(self) -> bool:
        """Whether a micro-batch was begun whose optimizer step has not been announced."""
        return self._open is not None

    def close(self) -> None:
        """Removes every hook and forgets the step in progress."""
        self._open = None
        self._detach()

    def _attach(self) -> None:
        trainable = {name: p for name, p in self._parameters.items() if p.requires_grad}
        wanted = tuple((name, id(p)) for name, p in trainable.items())
        if self._seen and wanted != self._seen:
            self.notes.add(CHANGED)
        self._seen = wanted
        if wanted != self._attached:
            self._stack.close()
            self._stack.enter_context(self.probe.attach(trainable, self.keys, self._context))
            self._attached = wanted

    def _detach(self) -> None:
        self._attached = None
        self._stack.close()

    # One optimizer step

    def prepare(self) -> None:
        """A forward pass is about to begin."""
        step = self._open or self._open_step()
        if step.measured:
            self.probe.listen()

    def _open_step(self) -> OpenStep:
        self._open = OpenStep(measured=self.optimizer_steps % self._every_n_steps == 0)
        if self._open.measured:
            self._attach()
            self.probe.starts(self.optimizer_steps)
        else:
            self._detach()
        return self._open

    def begin(
        self, size: float | None, weight: float = 1.0, *, examples: int | None = None
    ) -> None:
        """A backward pass over ``size`` examples begins; ``None``: their number cannot be
        determined.

        ``examples`` is the length of the batch dimension, where ``size`` counts something else
        (tokens).
        """
        step = self._open or self._open_step()
        known = size if size is not None and math.isfinite(size) and size > 0 else None
        step.sizes.append(known or 0.0)
        step.unknown |= known is None
        if step.measured:
            self.probe.begin(known or 1.0, weight, examples)

    def watch_loss(self, loss: Tensor) -> None:
        """The loss of the pass that was begun, before its backward pass."""
        if self._open is not None and self._open.measured:
            self.probe.watch_loss(loss)

    def end(self) -> None:
        """The backward pass is over."""
        if self._open is not None and self._open.measured:
            self.probe.end()

    def rest(self) -> None:
        """The passes over a micro-batch are over: no hook stays on a layer until the
        next begins.
        """
        if self.probe.watches_forward:
            self.probe.rest()

    def step(
        self,
        *,
        loss_scale: Tensor | float | None = None,
        learning_rate: Tensor | float | None = None,
    ) -> None:
        """All backward passes of an optimizer step are done and ``.grad`` is still as they left it.

        Args:
            loss_scale: factor on the loss that is still in the gradients, on their device (so that
                nothing has to be read).
            learning_rate: of the step, so that the end of a decaying schedule can be told from the
                rest of a run.
        """
        used = self._open.local_size if self._open is not None else 0.0
        row, fault = self.take(loss_scale=loss_scale)
        self.commit(row, fault=fault, used=used, new=used, learning_rate=learning_rate)

    def take(self, *, loss_scale: Tensor | float | None = None) -> tuple[Tensor | None, str | None]:
        """What the probe has seen since it was last asked, and why it cannot be used.

        For a host that learns only later whether the optimizer steps on it (see :meth:`commit`);
        :meth:`step` does both.
        """
        step = self._open
        if step is None or not step.measured:
            return None, None
        self.probe.end()
        row = self.probe.row()
        fault = NO_SIZE if step.unknown else self.probe.fault()
        step.unknown = False
        if row is None or fault is not None:
            return None, fault
        if loss_scale is not None:
            row = unscaled(row, loss_scale)
        return row, None

    def commit(
        self,
        row: Tensor | None,
        *,
        fault: str | None = None,
        used: float,
        new: float,
        learning_rate: Tensor | float | None = None,
    ) -> None:
        """The optimizer steps on the gradient that ``row`` (keys, 4) describes; ``None``: it cannot
        be used.

        Args:
            row: of this replica, loss scale divided out.
            fault: why it cannot be used.
            used: examples that this rank used in the step.
            new: those of them that no earlier step used.
            learning_rate: of the step; a tensor is read when rows are.
        """
        step, self._open = self._open, None
        self.optimizer_steps += 1
        if step is None:
            return
        self._rows.count(self.name, new)
        if step.measured:
            self._append(row if fault is None else None, used, fault, learning_rate)

    def _append(
        self, row: Tensor | None, used: float, fault: str | None, rate: Tensor | float | None = None
    ) -> None:
        values = unusable(len(self.keys), self.device) if row is None else row
        self._rows.append(PendingRow(self.name, values.flatten(), used, fault, rate))

    def cancel(self) -> None:
        """The backward pass that was begun is none of this optimizer's: as if it had never been
        begun.
        """
        if self._open is None:
            return
        self._open.sizes.pop()
        self._open.unknown = False
        if self._open.measured:
            self.probe.discard()

    def discard(self) -> None:
        """The optimizer is about to step though :meth:`step` was not called: the step in progress
        cannot be used.
        """
        step = self.abandon()
        if step is None:
            return
        self.optimizer_steps += 1
        if step.measured:
            self._append(None, step.local_size, NO_BACKWARD)

    def abandon(self) -> OpenStep | None:
        """Forgets the step in progress, and returns what it was."""
        step, self._open = self._open, None
        if step is not None and step.measured:
            self.probe.discard()
        return step

    @property
    def refusal(self) -> NoiseScaleError | None:
        """Why the probe can never give a right number, as far as its first backward
        pass has shown.
        """
        return self.probe.refusal
