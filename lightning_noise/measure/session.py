"""The one object that whoever drives a training loop talks to: passes and steps in,
readings out.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import CannotMeasureError
from lightning_noise.core.windows import Windows
from lightning_noise.measure.batches import BatchSize, BatchSizes
from lightning_noise.measure.channels import Model, NoCurvature, open_curvature, open_tracks
from lightning_noise.measure.curvature_rows import SOURCE
from lightning_noise.measure.measurement import Measurement
from lightning_noise.measure.pending_rows import PendingRows
from lightning_noise.measure.readings import Average, Tally
from lightning_noise.measure.steps import AnnouncedSteps, FoundSteps, Steps
from lightning_noise.measure.what import What
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.words import count


class Session(Measurement):
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
        rows = PendingRows(setup.reduce, setup.rank, setup.ranks)
        super().__init__(rows, decay_by_examples=what.decay_by_examples)
        self.what, self.setup = what, setup
        self._model = Model(parameters, dict(optimizers), module)
        self._warn = warn
        self._sizes = BatchSizes(what.batch_size_fn, warn)
        self.tracks = open_tracks(what, setup, self._model, rows)
        self.curvature = open_curvature(what, setup, self._model, rows, warn)
        self._open_channels()
        steps = FoundSteps(self.tracks) if setup.manual else AnnouncedSteps(self.tracks[0])
        self._steps: Steps = steps
        self._size: float | None = None
        self._examples: int | None = None
        self._weight = 1.0
        self._first_batch = True
        self._watches_anew = False

    def _open_channels(self) -> None:
        averages: dict[Key, Average] = {}
        for track in self.tracks:
            averages |= {key: Windows(self.what.decay) for key in track.named_keys}
            self.open_steps(track.name, track.named_keys, optimizer=track.name)
        averages |= self.curvature.averages(self.what.decay)
        self.open_channel(SOURCE, lambda row: self.curvature.read(row, self.readings))
        self.begin_averages(averages, self._model.optimizers)

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
            track.watch(self._model.trained(track.name))

    def close(self) -> None:
        """Removes every hook and forgets the step in progress. What was measured, and rows that
        wait, stay.
        """
        self.curvature.close()
        for track in self.tracks:
            track.close()

    def end_curvature(self) -> None:
        """Measures no curvature from here on. What was measured, and rows that wait, stay."""
        self.curvature.close()
        self.curvature = NoCurvature()

    # One batch

    def batch(
        self, batch: Any, *, accumulation: int = 1, size: float | None = None, share: float = 1.0
    ) -> None:
        """A batch is about to go forward, one of ``accumulation`` of its step.

        Args:
            batch: as the model gets it.
            accumulation: batches of its step, by which its loss is divided.
            size: the number of its examples, where the host knows it.
            share: a further factor on its loss, where the batches of a step are not of one size.

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
        self._weight = share / accumulation
        step = self.tracks[0].optimizer_steps
        equal = self._size if share == 1.0 else None  # a curvature needs equal batches
        self.curvature.batch(batch, equal, accumulation=accumulation, step=step)
        self._steps.batch(rows)

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

    def abandon(self) -> None:
        """Forgets the step in progress, which is about to be made again."""
        for track in self.tracks:
            track.rest()
            track.abandon()
        self.curvature.close()

    # How often

    @property
    def chooses_every_step(self) -> bool:
        """Whether every step is measured because neither the user nor the probe has said."""
        return self.what.every_n_steps is None and self.tracks[0].probe.every_n_steps == 1

    def measure_every(self, steps: int) -> None:
        """Measures the gradients of the first of every so many optimizer steps from now on."""
        for track in self.tracks:
            track.every_n_steps = steps

    # Reading

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.tracks[0].device

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
        return {"steps": steps, "ranks": self.setup.ranks, **self.readings.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, inside_epoch: bool = False) -> None:
        """Restores :meth:`state_dict`, as far as the same is measured.

        Args:
            state: what was saved, on any number of ranks.
            inside_epoch: whether it was saved between the batches of an epoch.
        """
        for track in self.tracks:
            track.optimizer_steps = state["steps"].get(track.name, 0)
        self.readings.load_state_dict(state)
        saved = state.get("ranks", self.setup.ranks)  # the first checkpoints have none
        if saved == self.setup.ranks:
            return
        for tally in self.readings.tallies.values():
            tally.leave_ranks(inside_epoch=inside_epoch)
        self._warn(_other_ranks(saved, self.setup.ranks, inside_epoch=inside_epoch))


def _other_ranks(saved: int, ranks: int, *, inside_epoch: bool) -> str:
    """What is taken up from a checkpoint of another number of ranks, and what is not."""
    text = (
        f"the checkpoint was saved on {count(saved, 'rank')}, and this run has "
        f"{count(ranks, 'rank')}. The averages go on, and the batch size in use is counted anew."
    )
    if not inside_epoch:
        return text
    return f"{text} The size of the data set is not taken from the epoch that was interrupted."
