"""Curvature while training: Hessian-vector products at their own cadence, from the passes that are
made anyway.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils._pytree import tree_map

from lightning_noise.core.curvature_average import CurvatureAverage, CurvatureProbe
from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.measure import batches
from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.measure.curvature_rows import SOURCE, pack, read_row
from lightning_noise.measure.frozen_sample import Batch, Pause
from lightning_noise.measure.kept_random_state import kept_random_state
from lightning_noise.measure.kept_state import frozen
from lightning_noise.measure.pending_rows import PendingRow, PendingRows, ReadRow
from lightning_noise.measure.readings import Readings
from lightning_noise.probes.second_derivatives import (
    DifferencesDisagreeError,
    NoSecondDerivativeError,
    ReentrantCheckpointError,
    hessian_forms,
)
from lightning_noise.probes.setup import Setup

PIECES = (
    4  # of a batch where there is no accumulation: two for the gradients, two for the curvature
)
FIX = (
    "Accumulate gradients over three micro-batches or more, or pass loss_fn, (module, batch) -> "
    "mean loss, by which a batch "
    "can be taken to pieces; or use measure_noise_scale at a checkpoint."
)
LossFn = Callable[[Any, Any], Any]


class CurvatureChannel:
    """Probes "hessian" and "gauss_newton" in the first of every so many optimizer steps.

    With K >= 3 micro-batches per step the gradients of K − 1 are compared under the curvature of
    the K-th, through the graph that its loss has anyway. With fewer, and ``loss_fn``, the batch is
    taken to pieces before its forward pass. Weights, gradients, buffers and random state of the run
    stay what they are.

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
        self._rows, self._module, self._trained, self._setup = rows, module, parameters, setup
        self._every, self._loss_fn, self._warn = every_n_steps, loss_fn, warn
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
            self._step, self._gradients = step, None
            self._due |= step % self._every == 0
        if not self._due or size is None:
            self._gradients = None
        elif accumulation < 3:
            if starts and self._loss_fn is not None:
                self._probe_pieces(batch, size)
        elif starts:
            self._parameters = self._trainable()
            self._gradients = Accumulated(self._parameters, accumulation - 1)
        elif self._gradients is not None and self._gradients.is_complete:
            self._probe_batch(batch)

    def before_backward(self, loss: Tensor, scale: Callable[[], float]) -> None:
        """A graph is there. If it is the last of the step its Hessian is taken, and the graph left
        for the backward pass.

        ``scale`` gives the factor on every micro-batch's mean loss; it may wait for the device.
        """
        gradients = self._gradients
        if gradients is None or not gradients.is_complete or not self._due:
            return
        found = self._forms_of_batch
        if "hessian" in self.geometries and "hessian" not in found:
            try:
                found["hessian"] = (
                    hessian_forms(loss, self._parameters, gradients.vectors()) / scale()
                )
            except NoSecondDerivativeError as error:
                self._without_double_backward = True
                if self._loss_fn is None:
                    raise CannotMeasureError([_no_double_backward(error)]) from error
                return  # differences of loss_fn take its place from the next step on
            except ReentrantCheckpointError as error:
                raise CannotMeasureError([_reentrant(error)]) from error
        self._take({name: gradients.probe(forms, scale()) for name, forms in found.items()})
        self._forms_of_batch = {}

    def after_backward(self, size: float | None) -> None:
        """``.grad`` holds one micro-batch more."""
        if self._gradients is None:
            return
        if size is None or self._gradients.is_complete:
            self._gradients = None
        else:
            self._gradients.add(size)

    def close(self) -> None:
        """Forgets the step in progress and lets go of its memory."""
        self._gradients, self._parameters, self._forms_of_batch, self._step = None, [], {}, -1

    # One probe of the curvature

    def _probe_batch(self, batch: Any) -> None:
        """Before the last forward pass of a step: what needs a graph of our own, by ``loss_fn``."""
        names = list(self.geometries)
        if not self._without_double_backward:
            names = [name for name in names if name == "gauss_newton"]
        if not names or self._gradients is None:
            return
        with self._aside() as loss:
            pause = Pause(loss, self._parameters, names)
            vectors = self._gradients.vectors()
            with self._disagreeing():
                self._forms_of_batch = {
                    n: torch.stack([pause.form(n, batch, v) for v in vectors]) for n in names
                }

    def _probe_pieces(self, batch: Any, size: float) -> None:
        """Before the forward pass of a batch without accumulation: a probe from pieces of it."""
        pieces = split(batch, PIECES)
        if pieces is None:
            raise CannotMeasureError([_no_pieces(self.geometries[0])])
        rows = sum(count for _, count in pieces)
        with self._aside() as loss:
            pause = Pause(loss, self._trainable(), self.geometries)
            with self._disagreeing():
                parts = iter([Batch(part, size * count / rows) for part, count in pieces])
                self._take(pause.probe(parts, 1).curved)

    def _trainable(self) -> list[Parameter]:
        return [p for p in self._trained().values() if p.requires_grad]

    @contextmanager
    def _aside(self) -> Iterator[Callable[[Any], Any]]:
        """``loss_fn`` as the host would call it, nothing of which stays behind."""
        function, module = self._loss_fn, self._module
        if function is None or module is None:
            raise CannotMeasureError([_no_double_backward(None)])

        def loss(batch: Any) -> Any:
            with self._setup.forward_context():
                return function(module, batch)

        with kept_random_state(), frozen(module):
            try:
                yield loss
            except ReentrantCheckpointError as error:
                raise CannotMeasureError([_reentrant(error)]) from error

    @contextmanager
    def _disagreeing(self) -> Iterator[None]:
        try:
            yield
        except DifferencesDisagreeError as error:
            self.skipped += 1
            if self.skipped == 1:
                self._warn(f"a curvature probe is skipped: {error}")
            self._take({})

    def _take(self, probes: Mapping[str, CurvatureProbe]) -> None:
        """Notes one probe as a row of numbers; one that cannot be used is a row too, so that all
        ranks have as many.
        """
        self._due = False
        self._gradients = None
        numbers = pack(self.geometries, probes)
        device = next(iter(self._trained().values())).device
        values = torch.tensor(numbers, dtype=torch.float64, device=device) / self._setup.ranks
        self._rows.append(PendingRow(SOURCE, values, size=0.0))

    # Reading

    def read(self, row: ReadRow, readings: Readings) -> None:
        """Adds a row to the averages."""
        read_row(self.geometries, row, readings)


def split(batch: Any, pieces: int) -> list[tuple[Any, int]] | None:
    """(piece, rows) of a batch whose tensors all have as many rows; tensors of other lengths and
    the rest are shared by all.

    >>> [(part["x"].tolist(), rows) for part, rows in split({"x": torch.arange(5), "n": 3}, 2)]
    [([0, 1, 2], 3), ([3, 4], 2)]
    """
    rows = batches.rows(batch)
    if rows is None or rows < pieces:
        return None
    sizes = [(rows + i) // pieces for i in reversed(range(pieces))]
    starts = [sum(sizes[:i]) for i in range(pieces)]

    def part(leaf: Any, start: int, size: int) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows:
            return leaf[start : start + size]
        return leaf

    return [
        (tree_map(lambda leaf, at=start, n=size: part(leaf, at, n), batch), size)
        for start, size in zip(starts, sizes, strict=True)
    ]


def curvature_reason(
    setup: Setup, geometries: Sequence[str], loss_fn: LossFn | None
) -> Reason | None:
    """Why a curvature cannot be measured in a run; ``None`` where it can."""
    if setup.manual:
        return Reason(
            "curvature_manual",
            Severity.REFUSE,
            f"geometry {geometries[0]!r} needs a loop that announces its steps, but this one steps "
            f"by itself",
            "Use measure_noise_scale at a checkpoint, with a loss_fn for each optimizer.",
        )
    most = max(setup.accumulation, setup.most_accumulation)
    if most < 3 and loss_fn is None:
        there = "there is one" if most == 1 else f"there are {most}"
        return Reason(
            "curvature_groups",
            Severity.REFUSE,
            f"geometry {geometries[0]!r} needs the gradients of two micro-batches and the "
            f"curvature of a third, but {there} "
            "per step and no loss_fn",
            FIX,
        )
    return None


def _no_pieces(geometry: str) -> Reason:
    return Reason(
        "curvature_pieces",
        Severity.REFUSE,
        f"geometry {geometry!r} needs {PIECES} pieces of a batch along its first dimension, but it "
        f"holds no tensor with so "
        "many rows",
        "Accumulate gradients over three micro-batches or more.",
    )


def _no_double_backward(error: Exception | None) -> Reason:
    return Reason(
        "no_double_backward",
        Severity.REFUSE,
        f"geometry 'hessian' needs second derivatives, and the loss has none ({error})",
        "Pass loss_fn, (module, batch) -> mean loss, whose central differences take their place; "
        "or leave out the geometry. "
        "For attention, torch.nn.attention.sdpa_kernel(SDPBackend.MATH) in the training step has "
        "them too.",
    )


def _reentrant(error: Exception) -> Reason:
    return Reason(
        "reentrant_checkpoint",
        Severity.REFUSE,
        str(error).rstrip("."),
        "Or leave out the geometry.",
    )
