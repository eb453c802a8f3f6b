"""One optimizer under measurement: micro-batches and steps in, partial rows of moments out."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason
from lightning_noise.measure.open_step import OpenStep
from lightning_noise.measure.pending_rows import PendingRow, PendingRows, Scalar
from lightning_noise.measure.skips import NO_BACKWARD, NO_ROW, NO_SIZE
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.probe import Context, Offer, Probe
from lightning_noise.probes.rows import unscaled, unusable

CHANGED = (
    "the parameters that are trained changed during the run: until enough steps have followed, "
    "the averages also contain steps from before the change"
)
Identities = list[tuple[str, int]]  # of parameters, by name


class Track:
    """The optimizer steps of one optimizer, seen by one probe.

    Args:
        name: of the optimizer; "" where there is one.
        probe: how the groups of a step are seen.
        offer: what the groups are.
        keys: the noise scales to measure, each with the names of the parameters that it is summed
            over.
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
        self.name = name
        self.probe = probe
        self.offer = offer
        self.optimizer = optimizer
        self.keys = dict(keys)
        self.notes: set[str] = set()  # reasons for doubt, in words for the user
        self.optimizer_steps = 0
        self.every_n_steps = every_n_steps
        self.measured_latest = False  # whether the latest optimizer step was measured
        self._rows = rows
        self._context = context
        self._open: OpenStep | None = None
        self._parameters: dict[str, Parameter] = {}
        self._attached: Identities | None = None
        self._seen: Identities = []  # trainable when last looked
        self._flags: list[bool] = []  # whether each parameter was trainable then
        self._stack = ExitStack()
        rows.open(name)

    # What is watched

    def watch(self, parameters: Mapping[str, Parameter]) -> None:
        """Sets the parameters to watch from the next optimizer step on, while they are trained."""
        self._parameters = dict(parameters)
        self._flags = []  # of other parameters, perhaps

    @property
    def named_keys(self) -> list[Key]:
        """The keys, with the name of the optimizer."""
        return [key._replace(optimizer=self.name) for key in self.keys]

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        first = next(iter(self._parameters.values()), None)
        if first is None:
            return torch.device("cpu")
        return first.device

    @property
    def in_step(self) -> bool:
        """Whether a micro-batch has begun whose optimizer step has not been announced."""
        return self._open is not None

    def close(self) -> None:
        """Removes every hook and forgets the step in progress."""
        self._open = None
        self._detach()

    def _attach(self) -> None:
        flags = [parameter.requires_grad for parameter in self._parameters.values()]
        if self._attached is not None and flags == self._flags:
            return
        self._flags = flags
        trainable: dict[str, Parameter] = {}
        wanted: Identities = []
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                trainable[name] = parameter
                wanted.append((name, id(parameter)))
        if self._seen and wanted != self._seen:
            self.notes.add(CHANGED)
        self._seen = wanted
        if wanted != self._attached:
            self._stack.close()
            watching = self.probe.attach(trainable, self.keys, self._context)
            self._stack.enter_context(watching)
            self._attached = wanted

    def _detach(self) -> None:
        self._attached = None
        self._stack.close()

    # One optimizer step

    def prepare(self, examples: int | None = None) -> None:
        """A forward pass is about to begin, over so many examples as far as the host knows."""
        step = self._open or self._open_step()
        if step.measured:
            self.probe.listen(examples)

    def _open_step(self) -> OpenStep:
        measured = self.optimizer_steps % self.every_n_steps == 0
        self._open = OpenStep(measured=measured)
        if self._open.measured:
            self._attach()
            self.probe.starts(self.optimizer_steps)
        else:
            self._detach()
        return self._open

    def begin(
        self,
        size: float | None,
        weight: float = 1.0,
        *,
        examples: int | None = None,
    ) -> None:
        """A backward pass over ``size`` examples begins; ``None``: their number cannot be
        determined.

        ``examples`` is the length of the batch dimension, where ``size`` counts something else
        (tokens).
        """
        step = self._open or self._open_step()
        if size is None or not math.isfinite(size) or size <= 0:
            step.unknown = True
            step.sizes.append(0.0)
            size = 1.0  # the probe needs one, though the step cannot be used
        else:
            step.sizes.append(size)
        if step.measured:
            self.probe.begin(size, weight, examples)

    def watch_loss(self, loss: Tensor) -> None:
        """The loss of the pass that was begun, before its backward pass."""
        if self._open is not None and self._open.measured:
            self.probe.watch_loss(loss)

    def end(self) -> None:
        """The backward pass is over."""
        if self._open is not None and self._open.measured:
            self.probe.end()

    def rest(self) -> None:
        """The passes over a micro-batch are over: no hook stays on a layer until the next one."""
        if self.probe.watches_forward:
            self.probe.rest()

    def step(self, *, loss_scale: Scalar = None, learning_rate: Scalar = None) -> None:
        """All backward passes of an optimizer step are done and ``.grad`` is still as they left it.

        Args:
            loss_scale: factor on the loss that is still in the gradients, on their device (so that
                nothing has to be read).
            learning_rate: of the step; it tells the end of a decaying schedule from the rest of the
                run.
        """
        used = 0.0
        if self._open is not None:
            used = self._open.local_size
        row, fault = self.take(loss_scale=loss_scale)
        self.commit(row, fault=fault, used=used, new=used, learning_rate=learning_rate)

    def take(self, *, loss_scale: Scalar = None) -> tuple[Wide | None, Reason | None]:
        """What the probe has seen since the previous call, and why it cannot be used.

        For a host that learns only later whether the optimizer steps on it (see :meth:`commit`);
        :meth:`step` does both.
        """
        step = self._open
        if step is None or not step.measured:
            return None, None
        self.probe.end()
        row = self.probe.row()
        fault = self.probe.fault()
        if step.unknown:
            fault = NO_SIZE
            step.unknown = False
        if row is None:
            return None, fault or NO_ROW
        if fault is not None:
            return None, fault
        if loss_scale is not None:
            row = unscaled(row, loss_scale)
        return row, None

    def commit(
        self,
        row: Wide | None,
        *,
        fault: Reason | None = None,
        used: float,
        new: float,
        learning_rate: Scalar = None,
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
        self.measured_latest = step is not None and step.measured
        if step is None:
            return
        self._rows.count(self.name, new)
        if not step.measured:
            return
        if fault is not None:
            row = None
        self._append(row, used, fault, learning_rate)

    def _append(
        self,
        row: Wide | None,
        used: float,
        fault: Reason | None,
        rate: Scalar = None,
    ) -> None:
        if row is None:
            keys = len(self.keys)
            row = unusable(keys, self.device)
        pending = PendingRow(
            source=self.name,
            values=row.flatten(),
            size=used,
            fault=fault,
            learning_rate=rate,
        )
        self._rows.append(pending)

    def cancel(self) -> None:
        """The backward pass that was begun does not belong to this optimizer: forgets it."""
        if self._open is None:
            return
        self._open.sizes.pop()
        self._open.unknown = False
        if self._open.measured:
            self.probe.discard()

    def discard(self) -> None:
        """The optimizer is about to step, but :meth:`step` was not called: the step in progress
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

    def raise_refusal(self) -> None:
        """Raises the probe's refusal, which it may know only after its first backward pass.

        Raises:
            NoiseScaleError: the probe can never give a right number.
        """
        refusal = self.probe.refusal
        if refusal is not None:
            raise refusal
