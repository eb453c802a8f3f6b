"""A measurement driven from a training loop in plain torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason
from lightning_noise.hosts.announced_passes import AnnouncedPasses
from lightning_noise.measure.readings import Readings, Sink
from lightning_noise.measure.session import Session
from lightning_noise.measure.what import LossFn, What
from lightning_noise.probes.probe import Probe
from lightning_noise.probes.setup import Reduce, Setup
from lightning_noise.probes.sharding import as_shards


class Monitor:
    """Measures noise scales of a training loop.

    A loop calls :meth:`micro_batch` around every backward pass and :meth:`step` after the last one
    of an optimizer step, before clipping, then :meth:`flush` whenever it wants to read. Nothing is
    read from the device in between.

    Several optimizers, and loops whose passes do not follow a pattern (GANs), use :meth:`batch`,
    :meth:`backward` and ``step(optimizer=…)`` instead: which passes made an optimizer's gradient is
    inferred from the gradients.

    Args:
        probe: how the groups of a step are seen: a probe, its name, or "auto".
        geometry: metrics M of gᵀMg: "euclidean" (measured in any case), "hessian", "gauss_newton",
            "optimizer".
        optimizers: several, by name; or one, whose metric or learning rate is needed.
        module: the model, for single examples and for curvatures by ``loss_fn``.
        accumulation: micro-batches per optimizer step, if always the same; for curvatures.
        loss_fn: (module, batch) → mean loss, or (loss, outputs), for curvatures where there are
            fewer than three micro-batches per step.
        keys: the noise scales to measure, each with the names of the parameters that it is summed
            over; ``None``: one key, all parameters.
        decay: exponential decay per measured step; the longest window is (1 + decay)/(1 − decay)
            steps.
        every_n_steps: measures the first of every so many optimizer steps; ``None``: every step,
            with Examples(eager=True) every 20th, and curvatures every 100th.
        replicas: ranks that train on different examples and whose gradients are averaged.
        rank: of this process among them.
        reduce: sums a tensor over these ranks; ``None`` for one process.
        decay_by_examples: ``decay`` is that of a step of the first size, and larger steps decay by
            as much more: for a batch size that adapts.

    Raises:
        CannotMeasureError: from :meth:`attach`, where no step will have two groups of gradients.

    >>> import torch
    >>> from lightning_noise.probes.micro_batches import MicroBatches
    >>> model = torch.nn.Linear(2, 2)
    >>> monitor = Monitor(MicroBatches())
    >>> with monitor.attach(dict(model.named_parameters())):
    ...     for x in ([1.0, 4.0], [5.0, 0.5]):
    ...         with monitor.micro_batch(size=1, weight=1 / 2):
    ...             model(torch.tensor([x])).sum().div(2).backward()
    ...     monitor.step()
    ...     _ = monitor.flush()
    >>> round(monitor.estimate().noise, 4), round(monitor.estimate().signal, 4)
    (28.25, 16.0)
    """

    def __init__(
        self,
        probe: Probe | str = "auto",
        *,
        geometry: str | Sequence[str] = "euclidean",
        optimizers: Optimizer | Mapping[str, Optimizer] | None = None,
        module: nn.Module | None = None,
        accumulation: int = 0,
        loss_fn: LossFn | None = None,
        keys: Mapping[Key, Sequence[str]] | None = None,
        decay: float = 0.99,
        every_n_steps: int | None = None,
        replicas: int = 1,
        rank: int = 0,
        reduce: Reduce | None = None,
        decay_by_examples: bool = False,
    ) -> None:
        if isinstance(geometry, str):
            geometry = (geometry,)
        self._what = What(
            probe=probe,
            geometries=tuple(geometry),
            every_n_steps=every_n_steps,
            decay=decay,
            keys=keys,
            loss_fn=loss_fn,
            decay_by_examples=decay_by_examples,
        )
        self._several = isinstance(optimizers, Mapping)
        self._optimizers: Mapping[str, Optimizer | None]
        if isinstance(optimizers, Mapping):
            self._optimizers = optimizers
        else:
            self._optimizers = {"": optimizers}
        self._setup = Setup(
            ranks=replicas,
            rank=rank,
            reduce=reduce,
            accumulation=accumulation,
            manual=self._several,
        )
        self._module = module
        self._parameters: dict[str, Parameter] = {}
        self._attached: AnnouncedPasses | None = None  # from the first watch on
        self._state: Mapping[str, Any] | None = None
        self._sinks: list[Sink] = []

    @contextmanager
    def attach(self, parameters: Mapping[str, Parameter]) -> Iterator["Monitor"]:
        """Watches ``parameters`` (name → parameter) inside the context; no hook stays after it."""
        self.watch(parameters)
        try:
            yield self
        finally:
            self.close()

    def watch(self, parameters: Mapping[str, Parameter]) -> None:
        """Sets the parameters to watch from the next optimizer step on; frozen ones are skipped."""
        self._parameters = dict(parameters)
        if self._attached is None:
            session = self._open_session()
            self._attached = AnnouncedPasses(session, self._setup.accumulation)
        self.session.watch()

    def _open_session(self) -> Session:
        session = Session(self._what, self._setup, self._named, self._optimizers, self._module)
        for sink in self._sinks:
            session.observe(sink)
        if self._state is not None:
            session.load_state_dict(self._state)
        return session

    def _named(self) -> Iterable[tuple[str, Parameter]]:
        return as_shards(self._module, self._parameters.items())

    def close(self) -> None:
        """Removes every hook and forgets the step in progress. Averages and unread rows stay."""
        if self._attached is not None:
            self._attached.session.close()

    @property
    def session(self) -> Session:
        """The measurement itself.

        Raises:
            RuntimeError: before :meth:`attach`.
        """
        return self._passes.session

    @property
    def _passes(self) -> AnnouncedPasses:
        if self._attached is None:
            raise RuntimeError(
                "Monitor.attach(parameters) must be called first: it names the parameters to watch."
            )
        return self._attached

    # One optimizer

    @contextmanager
    def micro_batch(self, size: float, weight: float = 1.0, batch: Any = None) -> Iterator[None]:
        """Around the passes over a micro-batch of ``size`` examples whose loss is multiplied by
        ``weight``.

        For K equal micro-batches, each loss divided by K, the weight is 1/K. A short last step
        needs no other weight: the weights of a step are normalised by their sum. An exception
        inside abandons the step in progress. Curvatures, and the check that examples do not mix,
        need :meth:`backward` inside; curvatures by ``loss_fn`` need ``batch``.
        """
        with self._passes.micro_batch(size, weight, batch):
            yield

    def begin(self, size: float | None, weight: float = 1.0, batch: Any = None) -> None:
        """The first half of :meth:`micro_batch`; ``None`` where the size cannot be determined."""
        self._passes.begin(size, weight, batch)

    def end(self) -> None:
        """The second half of :meth:`micro_batch`.

        Raises:
            RuntimeError: a curvature is measured, and :meth:`backward` was not called.
        """
        self._passes.end()

    def backward(self, loss: Tensor) -> None:
        """``loss.backward()``, preceded by what needs the graph of the loss."""
        if not self._several:
            self._passes.backward(loss)
            return
        self.session.backward(loss)
        loss.backward()
        self.session.backward_done(last=False)

    # Several optimizers

    @contextmanager
    def batch(self, size: float) -> Iterator[None]:
        """Around all that is done with one batch of ``size`` examples, even several steps."""
        self.session.batch(None, size=size)
        try:
            yield
        finally:
            self.session.batch_done()

    def step(
        self,
        optimizer: Optimizer | None = None,
        *,
        loss_scale: Tensor | float | None = None,
        learning_rate: Tensor | float | None = None,
    ) -> None:
        """All backward passes of an optimizer step are done and ``.grad`` is still as they left it.

        Args:
            optimizer: the one that is about to step, where there are several.
            loss_scale: factor on the loss that is still in the gradients, on their device (so that
                nothing has to be read).
            learning_rate: of the step; taken from the optimizer where the monitor knows it.
        """
        if self._several:
            self.session.stepping(optimizer)
        else:
            self._passes.track.step(loss_scale=loss_scale, learning_rate=learning_rate)

    def discard(self) -> None:
        """The optimizer steps, but the step in progress cannot be used."""
        self._passes.track.discard()

    # Reading

    @property
    def pending(self) -> int:
        """Measured steps that have not been read yet."""
        return self.session.pending

    def flush(self) -> int:
        """Reads all that waits, with one collective; returns the number of measured steps."""
        return self.session.read()

    def forget_unread(self) -> None:
        """Drops the rows that wait, without a collective. For use after an error."""
        self.session.forget_unread()

    def observe(self, sink: Sink) -> None:
        """Passes every reading to ``sink`` from here on."""
        if self._attached is not None:
            self._attached.session.observe(sink)
        self._sinks.append(sink)

    def estimate(self, key: Key = Key(), *, confidence: float = 0.95) -> NoiseEstimate:
        """The estimate from all steps read so far (call :meth:`flush` first to include the latest).

        Raises:
            KeyError: no such key is measured.
        """
        return self.session.estimate(key, confidence)

    @property
    def readings(self) -> Readings:
        """What has been read so far."""
        return self.session.readings

    @property
    def global_size(self) -> float | None:
        """Examples per optimizer step: the median of the latest steps."""
        return self.session.tally.global_size

    @property
    def skipped(self) -> Counter[Reason]:
        """Measured steps that could not be used, by reason."""
        return self.session.tally.skipped

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps announced so far, measured or not."""
        return self._passes.track.optimizer_steps

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values. Reads what waits: call it on all ranks."""
        return self.session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; may be called before or after the first :meth:`watch`."""
        self._state = state
        if self._attached is not None:
            self._attached.session.load_state_dict(state)
