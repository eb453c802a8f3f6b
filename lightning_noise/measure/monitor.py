"""The engine: micro-batches and steps in, noise scales out. Lightning's callback and a plain torch loop drive it alike."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.measure.open_step import Window
from lightning_noise.measure.pending_rows import NO_SIZE, Reduce, RowTable
from lightning_noise.measure.readings import Readings
from lightning_noise.probes.probe import ForwardWatcher, Probe

NO_BACKWARD = "no backward pass was seen before the optimizer's step"


class Monitor:
    """Measures noise scales of a training loop.

    Args:
        probe: how the groups of a step are seen.
        keys: for each number wanted, the names of the parameters it is summed over; ``None``: one key, all parameters.
        decay: exponential decay a measured step; the longest window is (1 + decay)/(1 − decay) steps.
        every_n_steps: measures the first of every so many optimizer steps.
        replicas: ranks that train on different examples and whose gradients are averaged.
        rank: of this process among them.
        reduce: sums a tensor over these ranks; ``None`` for one process.
        decay_by_examples: ``decay`` is that of a step of the first size, and larger steps decay by as much more: for a batch
            size that adapts.

    A loop calls ``micro_batch`` around every backward pass and ``step`` after the last one of an optimizer step, before
    clipping, then ``flush`` whenever it wants to read. Nothing is read from the device in between.

    >>> from lightning_noise.probes.micro_batches import MicroBatches
    >>> model = torch.nn.Linear(2, 2)
    >>> monitor = Monitor(MicroBatches())
    >>> with monitor.attach(dict(model.named_parameters())):
    ...     for x in ([1.0, 4.0], [5.0, 0.5]):
    ...         with monitor.micro_batch(size=1, weight=1 / 2):
    ...             model(torch.tensor([x])).sum().div(2).backward()
    ...     monitor.step()
    ...     _ = monitor.flush()
    >>> round(monitor.estimate().trace, 4), round(monitor.estimate().grad_sq, 4)
    (28.25, 16.0)
    """

    def __init__(
        self,
        probe: Probe,
        *,
        keys: Mapping[Key, Sequence[str]] | None = None,
        decay: float = 0.99,
        every_n_steps: int = 1,
        replicas: int = 1,
        rank: int = 0,
        reduce: Reduce | None = None,
        decay_by_examples: bool = False,
    ) -> None:
        self.probe = probe
        self._watcher = probe if isinstance(probe, ForwardWatcher) else None
        self.every_n_steps = every_n_steps
        self.replicas = replicas
        self.readings = Readings(decay, decay_by_examples=decay_by_examples)
        self.notes: set[str] = set()  # reasons for doubt, in words for the user
        self._keys = dict(keys) if keys is not None else None
        self._reduce = reduce
        self._rank = rank
        self._table = self._new_table(0)
        self._optimizer_steps = 0
        self._window: Window | None = None
        self._parameters: dict[str, Parameter] = {}
        self._attached: tuple[tuple[str, int], ...] | None = None
        self._stack = ExitStack()
        if self._keys is not None:
            self._open_keys(self._keys)

    # ---- watching -------------------------------------------------------------------------------------------------------

    @contextmanager
    def attach(self, parameters: Mapping[str, Parameter]) -> Iterator["Monitor"]:
        """Watches ``parameters`` (name → parameter) inside the context; no hook stays behind after it."""
        self.watch(parameters)
        try:
            yield self
        finally:
            self.close()

    def watch(self, parameters: Mapping[str, Parameter]) -> None:
        """Names the parameters to watch from the next optimizer step on; frozen ones are passed over while they are frozen."""
        self._parameters = dict(parameters)
        if not self.readings.windows:
            keys = self._keys if self._keys is not None else {Key(): list(self._parameters)}
            self._open_keys(keys)

    def _open_keys(self, keys: Mapping[Key, Sequence[str]]) -> None:
        self._keys = dict(keys)
        self.readings.open(keys)
        self._table = self._new_table(len(keys))

    def close(self) -> None:
        """Removes every hook and forgets the step in progress. Averages and unread rows stay."""
        self._window = None
        self._attached = None
        self._stack.close()

    def _attach_probe(self) -> None:
        trainable = {name: p for name, p in self._parameters.items() if p.requires_grad}
        wanted = tuple((name, id(p)) for name, p in trainable.items())
        if wanted == self._attached:
            return
        self._stack.close()
        self._stack.enter_context(self.probe.attach(trainable, self._keys or {}))
        self._attached = wanted

    # ---- one optimizer step ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """A forward pass is about to begin.

        Needed before :meth:`begin` where a probe watches forward passes (``examples``) and ``begin`` comes after them;
        :meth:`micro_batch` around both passes needs no such call.
        """
        window = self._window or self._open_window()
        if window.measured and hasattr(self.probe, "listen"):
            self.probe.listen()

    def _open_window(self) -> Window:
        self._window = Window(measured=self._optimizer_steps % self.every_n_steps == 0)
        if self._window.measured:
            self._attach_probe()
            if hasattr(self.probe, "step_index"):
                self.probe.step_index = self._optimizer_steps
        elif self._attached is not None:
            self._attached = None
            self._stack.close()
        return self._window

    @contextmanager
    def micro_batch(self, size: float, weight: float = 1.0) -> Iterator[None]:
        """Around the passes over a micro-batch of ``size`` examples whose loss is multiplied by ``weight``.

        For K equal micro-batches, each loss divided by K, the weight is 1/K. A short last step needs no other weight: the
        weights of a step are normalised by their sum. An exception inside abandons the step in progress.
        """
        self.begin(size, weight)
        try:
            yield
        except BaseException:
            self._abandon()
            self.rest()
            raise
        self.end()
        self.rest()

    def watch_loss(self, loss: Tensor) -> None:
        """The loss inside of :meth:`micro_batch`, before its backward pass.

        A loop that measures single examples should call this: from the graph of the loss the
        ``examples`` probe checks, in its first step and every 1000th, that neither the model nor
        the loss mixes the examples of a batch.
        """
        if self._watcher is not None and self._window is not None and self._window.measured:
            self._watcher.watch_loss(loss)

    def rest(self) -> None:
        """The passes over a micro-batch are over: no hook stays on a layer until the next."""
        if self._watcher is not None:
            self._watcher.rest()

    def begin(
        self,
        size: float | None,
        weight: float = 1.0,
        *,
        examples: int | None = None,
        loss: Tensor | None = None,
    ) -> None:
        """The first half of :meth:`micro_batch`; a size of ``None`` means that it cannot be told.

        ``examples`` is the length of the batch dimension, where ``size`` counts something else
        (tokens). ``loss`` is for a host that begins after the forward pass, see :meth:`watch_loss`.
        """
        window = self._window or self._open_window()
        known = size is not None and math.isfinite(size) and size > 0
        window.sizes.append(size if known and size is not None else 0.0)
        window.unknown |= not known
        if window.measured:
            counted = size if known and size is not None else 1.0
            if self._watcher is not None:
                self._watcher.begin(counted, weight, examples)
            else:
                self.probe.begin(counted, weight)
            if loss is not None:
                self.watch_loss(loss)

    def end(self) -> None:
        """The second half of :meth:`micro_batch`."""
        if self._window is not None and self._window.measured:
            self.probe.end()

    def step(
        self,
        *,
        loss_scale: Tensor | float | None = None,
        learning_rate: Tensor | float | None = None,
    ) -> None:
        """All backward passes of an optimizer step are done and ``.grad`` is still as they left it.

        Args:
            loss_scale: factor on the loss that is still in the gradients, on their device (so that nothing has to be read).
            learning_rate: of the step, so that the end of a decaying schedule can be told from the rest of a run.
        """
        used = self._window.local_size if self._window is not None else 0.0
        row, fault = self.take(loss_scale=loss_scale)
        self.commit(row, fault=fault, used=used, new=used, learning_rate=learning_rate)

    def take(self, *, loss_scale: Tensor | float | None = None) -> tuple[Tensor | None, str | None]:
        """What the probe has seen since it was last asked, and why it cannot be used.

        For a host that learns only later whether the optimizer steps on it (see :meth:`commit`); :meth:`step` does both.
        """
        window = self._window
        if window is None or not window.measured:
            return None, None
        self.probe.end()
        row = self.probe.row()
        fault = NO_SIZE if window.unknown else self.probe.fault() if hasattr(self.probe, "fault") else None
        window.unknown = False
        if row is None or fault is not None:
            return None, fault
        if loss_scale is not None:
            row[:, :2] /= torch.as_tensor(loss_scale, device=row.device).double() ** 2
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
        """The optimizer steps on the gradient that ``row`` (keys, 4) describes; ``None``: it cannot be used.

        Args:
            row: of this replica, loss scale divided out.
            fault: why it cannot be used.
            used: examples that this rank used in the step.
            new: those of them that no earlier step used.
            learning_rate: of the step; a tensor is read when rows are.
        """
        window, self._window = self._window, None
        self._optimizer_steps += 1
        if window is None:
            return
        self._table.count(new)
        if not window.measured:
            return
        row = self._unusable_row() if row is None or fault is not None else row
        if self.replicas > 1:
            row[:, :3] /= self.replicas
            row[:, 3] /= self.replicas**2
        self._table.append(row, used, fault, learning_rate)

    def cancel(self) -> None:
        """The backward pass that was begun is none of this optimizer's: as if it had never been begun."""
        if self._window is None:
            return
        self._window.sizes.pop()
        self._window.unknown = False
        if self._window.measured:
            self._discard_seen()

    def discard(self) -> None:
        """The optimizer is about to step though :meth:`step` was not called: the present step cannot be used."""
        if self._window is None:
            return
        window = self._abandon()
        self._optimizer_steps += 1
        if window is not None and window.measured:
            self._table.append(self._unusable_row(), window.local_size, NO_BACKWARD)

    def _abandon(self) -> Window | None:
        window, self._window = self._window, None
        if window is not None and window.measured:
            self._discard_seen()
        return window

    def _discard_seen(self) -> None:
        if hasattr(self.probe, "discard"):
            self.probe.discard()
        else:
            self.probe.end()
            self.probe.row()

    @property
    def probe_refusal(self) -> str | None:
        """Why the probe cannot see single examples, as far as its first backward pass has shown."""
        refusal = getattr(self.probe, "refusal", None)
        return None if refusal is None else str(refusal)

    @property
    def in_step(self) -> bool:
        """Whether a micro-batch was begun whose optimizer step has not been announced."""
        return self._window is not None

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next((p.device for p in self._parameters.values()), torch.device("cpu"))

    def _unusable_row(self) -> Tensor:
        return torch.full((len(self.readings.windows), 4), math.nan, dtype=torch.float64, device=self.device)

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Measured steps that have not been read yet."""
        return len(self._table)

    def flush(self) -> int:
        """Reads all that waits: the only collective and the only wait for the device. Returns the number of measured steps."""
        flushed = self._table.flush(self.device)
        self.readings.take(flushed)
        return len(flushed.records)

    def forget_unread(self) -> None:
        """Drops the rows that wait, without a collective; for after an error."""
        self._table = self._new_table(len(self.readings.windows))

    def _new_table(self, keys: int) -> RowTable:
        return RowTable(keys, self._reduce, self._rank, self.replicas)

    def estimate(self, key: Key = Key(), *, confidence: float = 0.95) -> NoiseEstimate:
        """The estimate from all steps read so far (call :meth:`flush` first to include the latest).

        Raises:
            KeyError: no such key is measured.
        """
        return self.readings.estimate(key, confidence)

    @property
    def global_size(self) -> float | None:
        """Examples that one optimizer step uses: the median of the latest steps, so that a short last one does not show."""
        return self.readings.global_size

    @property
    def skipped(self) -> Counter[str]:
        """Measured steps that could not be used, by reason."""
        return self.readings.skipped

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps announced so far, measured or not."""
        return self._optimizer_steps

    def resized(self) -> None:
        """The batch size changes from here on: :attr:`global_size` is the median of what follows."""
        self.flush()
        self.readings.resized()

    # ---- state ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values. Reads waiting rows first: call it on all ranks."""
        self.flush()
        return {"version": 1, "optimizer_steps": self._optimizer_steps, **self.readings.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; may be called before or after the first :meth:`watch`."""
        self._optimizer_steps = state["optimizer_steps"]
        self.readings.load_state_dict(state)
