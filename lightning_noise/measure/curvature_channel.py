"""Curvature during training: Hessian-vector products at their own cadence, from passes that the
run makes anyway.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.curvature_average import CurvatureAverage, CurvatureProbe
from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import CannotMeasureError
from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.measure.curvature_reasons import (
    FEWEST_MICRO_BATCHES,
    no_double_backward,
    no_pieces,
    reentrant,
)
from lightning_noise.measure.curvature_rows import SOURCE, pack, read_row
from lightning_noise.measure.frozen_sample import Batch, Pause
from lightning_noise.measure.kept_random_state import kept_random_state
from lightning_noise.measure.kept_state import frozen
from lightning_noise.measure.pending_rows import PendingRow, PendingRows, ReadRow
from lightning_noise.measure.pieces import split
from lightning_noise.measure.readings import Readings
from lightning_noise.measure.what import LossFn
from lightning_noise.probes.second_derivatives import (
    DifferencesDisagreeError,
    NoSecondDerivativeError,
    ReentrantCheckpointError,
    hessian_forms,
)
from lightning_noise.probes.setup import Setup

# pieces of a batch where there is no accumulation: two for the gradients, two for the curvature
PIECES = 4


class CurvatureError(CannotMeasureError):
    """A curvature cannot be measured in this run, as far as its first probe shows."""


class CurvatureChannel:
    """Probes "hessian" and "gauss_newton" in the first of every so many optimizer steps.

    With K >= 3 micro-batches per step the gradients of K − 1 are compared under the curvature of
    the K-th, through the graph that its loss has anyway. With fewer, and ``loss_fn``, the batch is
    split into pieces before its forward pass. Weights, gradients, buffers and random state of the
    run stay what they are.

    Args:
        geometries: "hessian", "gauss_newton" or both.
        rows: where the rows go.
        module: the model that ``loss_fn`` is called with.
        parameters: those that the optimizer trains now.
        setup: the facts of the run.
        every_n_steps: cadence in optimizer steps.
        loss_fn: (module, batch) → mean loss, or (loss, outputs).
        warn: how to report a probe that is skipped.
    """

    def __init__(
        self,
        geometries: Sequence[str],
        rows: PendingRows,
        module: nn.Module | None,
        parameters: Callable[[], Mapping[str, Parameter]],
        setup: Setup,
        *,
        every_n_steps: int,
        loss_fn: LossFn | None,
        warn: Callable[[str], None],
    ) -> None:
        self.geometries = tuple(geometries)
        self.skipped = 0
        self._rows = rows
        self._module = module
        self._trained = parameters
        self._setup = setup
        self._every_n_steps = every_n_steps
        self._loss_fn = loss_fn
        self._warn = warn
        self._due = False
        self._step = -1  # optimizer step in progress
        self._gradients: Accumulated | None = None  # of its micro-batches
        self._parameters: list[Parameter] = []
        self._forms_of_batch: dict[str, Tensor] = {}
        self._without_double_backward = False

    def averages(self, decay: float) -> dict[Key, CurvatureAverage]:
        """A fresh average for each geometry."""
        return {Key(name): CurvatureAverage(decay) for name in self.geometries}

    # What the host announces

    def batch(self, batch: Any, size: float | None, *, accumulation: int, step: int) -> None:
        """A batch is about to go forward; ``step`` counts the optimizer steps before it."""
        starts = step != self._step
        if starts:
            self._step = step
            self._gradients = None
            self._due |= step % self._every_n_steps == 0
        if not self._due or size is None:
            self._gradients = None
        elif accumulation < FEWEST_MICRO_BATCHES:
            if starts and self._loss_fn is not None:
                self._probe_pieces(batch, size)
        elif starts:
            self._parameters = self._trainable()
            self._gradients = Accumulated(self._parameters, accumulation - 1)
        elif self._gradients is not None and self._gradients.is_complete:
            self._probe_batch(batch)

    def before_backward(self, loss: Tensor, scale: Callable[[], float]) -> None:
        """The graph of a loss exists. If it is the last of the step, its Hessian is taken, and the
        graph is kept for the backward pass.

        ``scale`` gives the factor on every micro-batch's mean loss; it may wait for the device.
        """
        gradients = self._gradients
        if not self._due or gradients is None or not gradients.is_complete:
            return
        factor = scale()
        found = self._forms_of_batch
        if "hessian" in self.geometries and "hessian" not in found:
            forms = self._hessian_forms(loss, gradients)
            if forms is None:
                return
            found["hessian"] = forms / factor
        probes = {name: gradients.probe(forms, factor) for name, forms in found.items()}
        self._take(probes)
        self._forms_of_batch = {}

    def _hessian_forms(self, loss: Tensor, gradients: Accumulated) -> Tensor | None:
        """``None`` where differences of ``loss_fn`` take their place from the next step on."""
        try:
            return hessian_forms(loss, self._parameters, gradients.vectors())
        except NoSecondDerivativeError as error:
            self._without_double_backward = True
            if self._loss_fn is None:
                raise CurvatureError([no_double_backward(error)]) from error
            return None
        except ReentrantCheckpointError as error:
            raise CurvatureError([reentrant(error)]) from error

    def after_backward(self, size: float | None) -> None:
        """``.grad`` holds one more micro-batch."""
        if self._gradients is None:
            return
        if size is None or self._gradients.is_complete:
            self._gradients = None
        else:
            self._gradients.add(size)

    def close(self) -> None:
        """Forgets the step in progress and frees its memory."""
        self._step = -1
        self._gradients = None
        self._parameters = []
        self._forms_of_batch = {}

    # One probe of the curvature

    def _probe_batch(self, batch: Any) -> None:
        """Before the last forward pass of a step: what needs a graph of our own, by ``loss_fn``."""
        names = self._list_by_loss_fn()
        if not names or self._gradients is None:
            return
        with self._aside() as loss:
            pause = Pause(loss, self._parameters, names)
            vectors = self._gradients.vectors()
            with self._skipping_disagreement():
                found: dict[str, Tensor] = {}
                for name in names:
                    forms = [pause.form(name, batch, vector) for vector in vectors]
                    found[name] = torch.stack(forms)
                self._forms_of_batch = found

    def _list_by_loss_fn(self) -> list[str]:
        """The geometries that cannot be taken from the graph of the run."""
        if self._without_double_backward:
            return list(self.geometries)
        if "gauss_newton" in self.geometries:
            return ["gauss_newton"]
        return []

    def _probe_pieces(self, batch: Any, size: float) -> None:
        """Before the forward pass of a batch without accumulation: a probe from pieces of it."""
        pieces = split(batch, PIECES)
        if pieces is None:
            reason = no_pieces(self.geometries[0], PIECES)
            raise CurvatureError([reason])
        rows = sum(piece.rows for piece in pieces)
        parts: list[Batch] = []
        for piece in pieces:
            examples = size * piece.rows / rows
            parts.append(Batch(piece.content, examples))
        with self._aside() as loss:
            pause = Pause(loss, self._trainable(), self.geometries)
            with self._skipping_disagreement():
                probe = pause.probe(iter(parts), pairs=1)
                self._take(probe.curved)

    def _trainable(self) -> list[Parameter]:
        return [p for p in self._trained().values() if p.requires_grad]

    @contextmanager
    def _aside(self) -> Iterator[Callable[[Any], Any]]:
        """``loss_fn`` as the host would call it, nothing of which stays behind."""
        function = self._loss_fn
        module = self._module
        if function is None or module is None:
            raise CurvatureError([no_double_backward(None)])

        def loss(batch: Any) -> Any:
            with self._setup.forward_context():
                return function(module, batch)

        with kept_random_state(), frozen(module):
            try:
                yield loss
            except ReentrantCheckpointError as error:
                raise CurvatureError([reentrant(error)]) from error

    @contextmanager
    def _skipping_disagreement(self) -> Iterator[None]:
        """Skips a probe whose differences cannot be trusted, with a warning for the first."""
        try:
            yield
        except DifferencesDisagreeError as error:
            self.skipped += 1
            if self.skipped == 1:
                self._warn(f"a curvature probe is skipped: {error}")
            self._take({})

    def _take(self, probes: Mapping[str, CurvatureProbe]) -> None:
        """Keeps one probe as a row of numbers. A probe that cannot be used is a row too, so that
        all ranks have the same number of rows.
        """
        self._due = False
        self._gradients = None
        numbers = pack(self.geometries, probes)
        first = next(iter(self._trained().values()))
        values = torch.tensor(numbers, dtype=torch.float64, device=first.device)
        row = PendingRow(SOURCE, values / self._setup.ranks, size=0.0)
        self._rows.append(row)

    # Reading

    def read(self, row: ReadRow, readings: Readings) -> None:
        """Adds a row to the averages."""
        read_row(self.geometries, row, readings)
