"""The one object that whoever drives a training loop talks to: passes and steps in,
readings out.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.core.windows import Windows
from lightning_noise.measure.batches import BatchSize, BatchSizeFn, BatchSizes
from lightning_noise.measure.curvature_channel import (
    SOURCE,
    CurvatureChannel,
    LossFn,
    curvature_reason,
)
from lightning_noise.measure.layer_keys import list_keys
from lightning_noise.measure.pending_rows import PendingRows, ReadRow
from lightning_noise.measure.readings import Average, Readings, Sink, Tally
from lightning_noise.measure.steps import AnnouncedSteps, FoundSteps, Steps
from lightning_noise.measure.track import Track
from lightning_noise.probes.catalogue import choose
from lightning_noise.probes.preconditioner import Preconditioner, UnknownPreconditionerError
from lightning_noise.probes.probe import Context, Diagonal, Probe
from lightning_noise.probes.setup import Setup

CURVED = ("hessian", "gauss_newton")
CURVATURE_EVERY = 100  # steps: a probe costs a few steps


@dataclass(frozen=True, kw_only=True)
class What:
    """What to measure.

    Args:
        probe: "auto", the name of a probe, or a probe.
        geometries: metrics M of gᵀMg; the Euclidean one is measured in any case.
        every_n_steps: measures the first of every so many optimizer steps; ``None``: every step,
            curvatures every 100th.
        decay: exponential decay per measured step.
        per_layer: True for every module that owns parameters; a number n for the first n parts of
            their names.
        keys: for each number wanted, the names of the parameters it is summed over; ``None``: as
            ``per_layer`` says.
        batch_size_fn: batch → number of examples (or tokens, nodes, …), where the length of the
            first tensor is not it.
        loss_fn: (module, batch) → mean loss, or (loss, outputs), for curvatures.
        decay_by_examples: ``decay`` is that of a step of the first size, and larger steps decay by
            as much more.
    """

    probe: str | Probe = "auto"
    geometries: Sequence[str] = ("euclidean",)
    every_n_steps: int | None = None
    decay: float = 0.99
    per_layer: bool | int = False
    keys: Mapping[Key, Sequence[str]] | None = None
    batch_size_fn: BatchSizeFn | str | None = None
    loss_fn: LossFn | None = None
    decay_by_examples: bool = False

    @property
    def curved(self) -> tuple[str, ...]:
        """Geometries that need second derivatives."""
        return tuple(name for name in self.geometries if name in CURVED)


class Session:
    """Measures the noise scales of a training loop.

    Around every batch a loop calls :meth:`batch` before the forward pass, :meth:`backward` before
    the backward pass and :meth:`backward_done` after it; :meth:`stepping` before the optimizer
    steps; and :meth:`read` whenever it wants to know. Nothing is read from the device in between.

    Args:
        what: what to measure.
        setup: the facts of the run.
        parameters: gives the named parameters of the model.
        optimizers: by name; one optimizer is named "", and may be ``None`` where all parameters are
            its.
        module: the model, for single examples and for curvatures by ``loss_fn``.
        warn: how to report what a user should know at once.

    Raises:
        CannotMeasureError: the set-up can never give a right number; with every reason and its fix.

    >>> import torch
    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    >>> session = Session(What(), Setup(accumulation=2), model.named_parameters, {"": optimizer})
    >>> with session.open():
    ...     for x in ([1.0, 4.0], [5.0, 0.5]):
    ...         session.batch(torch.tensor([x]), accumulation=2)
    ...         loss = model(torch.tensor([x])).sum().div(2)
    ...         session.backward(loss)
    ...         loss.backward()
    ...         session.backward_done(last=x[0] == 5.0)
    ...     _ = session.read()
    >>> estimate = session.estimate()
    >>> round(estimate.noise, 4), round(estimate.signal, 4)
    (28.25, 16.0)
    """

    def __init__(
        self,
        what: What,
        setup: Setup,
        parameters: Callable[[], Iterable[tuple[str, Parameter]]],
        optimizers: Mapping[str, Optimizer | None],
        module: nn.Module | None = None,
        *,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.what, self.setup = what, setup
        self._named, self._module, self._optimizers = parameters, module, dict(optimizers)
        self._rows = PendingRows(setup.reduce, setup.rank, setup.ranks)
        self._sizes = BatchSizes(what.batch_size_fn, warn)
        self._channels: dict[str, Callable[[ReadRow], None]] = {}
        averages: dict[Key, Average] = {}
        self.readings = Readings(decay_by_examples=what.decay_by_examples)
        self.tracks = [self._track(name, averages) for name in self._optimizers]
        self.curvature = self._curvature(warn, averages)
        self.readings.open(averages, self._optimizers)
        steps = FoundSteps(self.tracks) if setup.manual else AnnouncedSteps(self.tracks[0])
        self._steps: Steps = steps
        self._size: float | None = None
        self._examples: int | None = None
        self._weight = 1.0
        self._first_batch = True
        self._watches_anew = False

    def _track(self, name: str, averages: dict[Key, Average]) -> Track:
        trained = self.trained(name)
        wanted = (
            self.what.probe if not averages else copy.deepcopy(self.what.probe)
        )  # a probe watches one optimizer
        probe, offer = choose(wanted, self.setup, self._module, trained)
        layers = trained if name else dict(self._named())  # those unfrozen later are numbered too
        keys = (
            list_keys(layers, self.what.per_layer)
            if self.what.keys is None
            else dict(self.what.keys)
        )
        diagonal = None
        if "optimizer" in self.what.geometries:
            keys[Key("optimizer")] = list(layers)
            diagonal = _preconditioner(probe, self._optimizers[name])
        context = Context(self.setup.ranks, diagonal, self.setup.tap)
        named = [key._replace(optimizer=name) for key in keys]
        averages |= {key: Windows(self.what.decay) for key in named}
        self._channels[name] = partial(self.readings.take_step, name, named)
        return Track(
            name,
            probe,
            offer,
            keys,
            self._rows,
            context=context,
            every_n_steps=self.what.every_n_steps or 1,
            optimizer=self._optimizers[name],
        )

    def _curvature(
        self, warn: Callable[[str], None], averages: dict[Key, Average]
    ) -> "CurvatureChannel | NoCurvature":
        if not self.what.curved:
            return NoCurvature()
        reason = curvature_reason(self.setup, self.what.curved, self.what.loss_fn)
        if reason is not None:
            raise CannotMeasureError([reason])
        first = next(iter(self._optimizers))
        channel = CurvatureChannel(
            self.what.curved,
            self._rows,
            self._module,
            partial(self.trained, first),
            self.setup,
            every_n_steps=self.what.every_n_steps or CURVATURE_EVERY,
            loss_fn=self.what.loss_fn,
            warn=warn,
        )
        averages |= channel.averages(self.what.decay)
        self._channels[SOURCE] = partial(channel.read, readings=self.readings)
        return channel

    def trained(self, name: str) -> dict[str, Parameter]:
        """Named parameters that an optimizer updates."""
        optimizer = self._optimizers[name]
        if optimizer is None:
            return dict(self._named())
        updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {full: p for full, p in self._named() if id(p) in updated}

    # The life of a session

    @contextmanager
    def open(self, state: Mapping[str, Any] | None = None) -> Iterator["Session"]:
        """Measures inside the context, from a state that was saved before; no hook stays behind
        after it.
        """
        if state:
            self.load_state_dict(state)
        self.watch()
        try:
            yield self
        finally:
            self.close()

    def watch(self) -> None:
        """Looks for the parameters that are trained now; call it again where parameters may have
        been frozen or unfrozen.
        """
        for track in self.tracks:
            track.watch(self.trained(track.name))

    def close(self) -> None:
        """Removes every hook and forgets the step in progress. What was measured, and rows that
        wait, stay.
        """
        self.curvature.close()
        for track in self.tracks:
            track.close()

    # One batch

    def batch(self, batch: Any, *, accumulation: int = 1, size: float | None = None) -> None:
        """A batch is about to go forward, one of ``accumulation`` of its step.

        ``size`` is the number of its examples, where the host knows it.

        Raises:
            CannotMeasureError: it can never be measured, as far as the first batch shows.
        """
        if self._watches_anew:
            self._watches_anew = False
            self.watch()
        self._size, self._examples = self._sizes.count(batch) if size is None else BatchSize(size)
        rows = self._examples
        if rows is None and self._size is not None:
            rows = int(self._size)
        if self._first_batch:
            self._first_batch = False
            self._refuse_batch(rows, accumulation)
        self._weight = 1 / accumulation
        step = self.tracks[0].optimizer_steps
        self.curvature.batch(batch, self._size, accumulation=accumulation, step=step)
        self._steps.batch()

    def _refuse_batch(self, rows: int | None, accumulation: int) -> None:
        if (
            self.setup.manual
            or accumulation > 1
            or any(self.readings.steps(track.name) for track in self.tracks)
        ):
            return
        reasons = [track.probe.accepts(rows, self.setup) for track in self.tracks]
        found = [reason for reason in reasons if reason is not None]
        if found:
            raise CannotMeasureError(found)

    @property
    def size(self) -> float | None:
        """Examples of the latest batch, in the user's unit; ``None`` where it cannot be
        determined.
        """
        return self._size

    def backward(self, loss: Tensor, *, loss_scale: Tensor | float | None = None) -> None:
        """The backward pass from ``loss`` is about to begin.

        Args:
            loss: mean loss over the batch, divided by ``accumulation``, times ``loss_scale``; its
                graph stays as it is.
            loss_scale: factor of mixed precision; a tensor is not read unless a curvature is due.
        """
        scale = 1.0 if loss_scale is None else loss_scale
        self.curvature.before_backward(loss, lambda: float(scale) * self._weight)
        self._steps.begin(self._size, self._weight, self._examples, loss)

    def backward_done(self, *, last: bool, loss_scale: Tensor | float | None = None) -> None:
        """The backward pass is over.

        Args:
            last: whether the optimizer steps next; gradients are then read, still scaled and not
                yet clipped.
            loss_scale: factor that mixed precision has put on the loss; a tensor is not read.

        Raises:
            CannotMeasureError: it can never be measured, as far as the first backward pass shows.
        """
        self.curvature.after_backward(self._size)
        self._steps.end(last=last, loss_scale=loss_scale)

    def stepping(self, optimizer: Optimizer | None = None) -> None:
        """An optimizer is about to step.

        Raises:
            CannotMeasureError: under manual optimization, where its gradient can never be right.
        """
        self._steps.step(optimizer)

    def batch_done(self) -> None:
        """All passes over the batch are over."""
        self._steps.rest()

    # Reading

    @property
    def pending(self) -> int:
        """Measurements that have not been read yet."""
        return len(self._rows)

    def read(self) -> int:
        """Reads all that waits: the only collective and the only wait for the device. Returns the
        number of measurements.
        """
        flushed = self._rows.flush(self.tracks[0].device)
        for name, totals in flushed.totals.items():
            self.readings.tallies[name].add(totals)
        for row in flushed.rows:
            self._channels[row.source](row)
        return len(flushed.rows)

    def forget_unread(self) -> None:
        """Drops what waits, without a collective; for after an error."""
        self._rows.forget()

    def observe(self, sink: Sink) -> None:
        """Hands every reading to ``sink`` from here on."""
        self.readings.observe(sink)

    def estimate(self, key: Key = Key(), confidence: float = 0.95) -> NoiseEstimate:
        """The estimate from all that has been read (call :meth:`read` first to include the latest).

        Raises:
            KeyError: no such key is measured.
        """
        return self.readings.estimate(key, confidence)

    @property
    def trajectories(self) -> dict[Key, Trajectory]:
        """First, mean and last resolved value of every noise scale of the whole model."""
        return self.readings.trajectories

    @property
    def curvatures(self) -> dict[str, CurvatureAverage]:
        """Averages of curvatures, by geometry."""
        found = {key.geometry: average for key, average in self.readings.averages.items()}
        return {
            name: average
            for name, average in found.items()
            if isinstance(average, CurvatureAverage)
        }

    @property
    def tally(self) -> Tally:
        """What is counted of the first optimizer."""
        return self.readings.tallies[self.tracks[0].name]

    @property
    def steps_read(self) -> int:
        """Measured steps of all optimizers that have been read, those skipped included."""
        return sum(self.readings.steps(track.name) for track in self.tracks)

    @property
    def twins(self) -> tuple[int, int] | None:
        """Two ranks that were caught with the same examples."""
        found = [tally.twins for tally in self.readings.tallies.values() if tally.twins is not None]
        return found[0] if found else None

    # What changes in a run

    def next_epoch(self, *, whole: bool) -> None:
        """An epoch begins; ``whole``: the one before used every example of a finite
        data set once.
        """
        for tally in self.readings.tallies.values():
            tally.next_epoch(whole=whole)
        self._watches_anew = (
            True  # at the next batch: whoever freezes or unfreezes does so until then
        )

    def resized(self) -> None:
        """The batch size changes from here on: the size in use is that of the steps that follow."""
        self.read()
        for tally in self.readings.tallies.values():
            tally.sizes.clear()

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values. Reads what waits first: call it on all
        ranks.
        """
        self.read()
        steps = {track.name: track.optimizer_steps for track in self.tracks}
        return {"steps": steps, **self.readings.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, as far as the same is measured."""
        for track in self.tracks:
            track.optimizer_steps = state["steps"].get(track.name, 0)
        self.readings.load_state_dict(state)


class NoCurvature:
    """Stands where no curvature is measured."""

    skipped = 0

    def batch(self, batch: Any, size: float | None, *, accumulation: int, step: int) -> None:
        """Nothing to do."""

    def before_backward(self, loss: Tensor, scale: Callable[[], float]) -> None:
        """Nothing to do."""

    def after_backward(self, size: float | None) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def _preconditioner(probe: Probe, optimizer: Optimizer | None) -> Diagonal:
    if optimizer is None or "optimizer" not in probe.metrics:
        raise CannotMeasureError(
            [
                Reason(
                    "no_whole_gradients",
                    Severity.REFUSE,
                    f"geometry 'optimizer' weighs whole gradients, and probe {probe.name!r} sees "
                    f"none",
                    "Accumulate gradients and use the micro_batches probe, use several ranks, or "
                    "measure_noise_scale.",
                )
            ]
        )
    try:
        return Preconditioner(optimizer)
    except UnknownPreconditionerError as error:
        reason = Reason("no_preconditioner", Severity.REFUSE, str(error))
        raise CannotMeasureError([reason]) from error
