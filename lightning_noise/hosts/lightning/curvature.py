"""Curvature probes while training: the callback's hooks turned into Hessian-vector products at their own cadence."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_map

from lightning_noise.core.curvature_average import CurvatureAverage, CurvatureProbe
from lightning_noise.core.moments import Moments
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.settings import CURVATURE_EVERY, Settings
from lightning_noise.hosts.lightning.strategies import sum_over_ranks
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException
from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.measure.frozen_sample import Batch, Pause
from lightning_noise.measure.kept_state import frozen
from lightning_noise.measure.pending_rows import Reduce
from lightning_noise.probes.second_derivatives import (
    DifferencesDisagreeError,
    NoSecondDerivativeError,
    ReentrantCheckpointError,
    hessian_forms,
)

PIECES = 4  # of a batch where there is no accumulation: two for the gradients, two for the curvature
WAY_OUT = (
    "Use Trainer(accumulate_grad_batches=3) or more, or pass loss_fn, (module, batch) -> mean loss, by which a batch can be "
    "taken to pieces; or measure_noise_scale at a checkpoint."
)


class CurvatureWatch:
    """Probes "hessian" and "gauss_newton" in the first of every so many optimizer steps.

    With K >= 3 micro-batches a step the gradients of K − 1 are compared under the curvature of the K-th, through the graph that
    its loss has anyway. With fewer, and ``loss_fn``, the batch is taken to pieces before its forward pass. ``training_step`` is
    never called. Weights, gradients, buffers and random state of the run stay what they are.

    Args:
        geometries: "hessian", "gauss_newton" or both.
        every_n_steps: cadence in optimizer steps.
        decay: exponential decay a probe.
        loss_fn: (module, batch) → mean loss, or (loss, outputs).
        reduce: sums a tensor over all ranks; ``None`` for one process.
        replicas: ranks.
    """

    def __init__(
        self,
        geometries: Sequence[str],
        *,
        every_n_steps: int,
        decay: float,
        loss_fn: Callable[[Any, Any], Any] | None,
        reduce: Reduce | None,
        replicas: int,
    ) -> None:
        self.averages = {name: CurvatureAverage(decay) for name in geometries}
        self.skipped = 0
        self._every = every_n_steps
        self._loss_fn = loss_fn
        self._reduce, self._replicas = reduce, replicas
        self._rows: list[list[float]] = []
        self._due = False
        self._step = -1  # optimizer step that the present window belongs to
        self._window: Accumulated | None = None
        self._parameters: list[Parameter] = []
        self._forms_of_batch: dict[str, Tensor] = {}
        self._without_double_backward = False

    # ---- the hooks ------------------------------------------------------------------------------------------------------

    def batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, size: float | None) -> None:
        """A batch is about to go forward."""
        starts = trainer.global_step != self._step
        if starts:
            self._step = trainer.global_step
            self._window = None
            self._due |= trainer.global_step % self._every == 0
        if not self._due or size is None:
            self._window = None
        elif trainer.accumulate_grad_batches < 3:
            if starts and self._loss_fn is not None:
                self._probe_pieces(trainer, module, batch, size)
        elif starts:
            self._parameters = _trained(trainer, module)
            self._window = Accumulated(self._parameters, trainer.accumulate_grad_batches - 1)
        elif self._window is not None and self._window.is_complete:
            self._probe_batch(trainer, module, batch)

    def before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor) -> None:
        """A graph is there. If it is the last of the step its Hessian is taken, and the graph left for the backward pass."""
        window = self._window
        if window is None or not window.is_complete or not self._due:
            return
        found = self._forms_of_batch
        if "hessian" in self.averages and "hessian" not in found:
            scale = _scale(trainer, module)
            try:
                found["hessian"] = hessian_forms(loss, self._parameters, window.vectors()) / scale
            except NoSecondDerivativeError as error:
                self._without_double_backward = True
                if self._loss_fn is None:
                    raise MisconfigurationException(_no_double_backward(error)) from error
                return  # differences of loss_fn take its place from the next step on
            except ReentrantCheckpointError as error:
                raise MisconfigurationException(_reentrant(error)) from error
        self._take({name: window.probe(forms, _scale(trainer, module)) for name, forms in found.items()})
        self._forms_of_batch = {}

    def after_backward(self, size: float | None) -> None:
        """``.grad`` holds one micro-batch more."""
        if self._window is None:
            return
        if size is None or self._window.is_complete:
            self._window = None
        else:
            self._window.add(size)

    # ---- probes ---------------------------------------------------------------------------------------------------------

    def _probe_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> None:
        """Before the last forward pass of a step: what needs a graph of our own, by ``loss_fn``."""
        names = [n for n in self.averages if n == "gauss_newton" or self._without_double_backward]
        if not names or self._window is None:
            return
        with self._aside(trainer, module) as loss:
            pause = Pause(loss, self._parameters, names)
            vectors = self._window.vectors()
            with self._disagreeing():
                self._forms_of_batch = {n: torch.stack([pause.form(n, batch, v) for v in vectors]) for n in names}

    def _probe_pieces(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, size: float) -> None:
        """Before the forward pass of a batch without accumulation: a probe from pieces of it."""
        pieces = split(batch, PIECES)
        if pieces is None:
            raise MisconfigurationException(
                f"`GradientNoiseScale`: geometry {next(iter(self.averages))!r} needs {PIECES} pieces of a batch along its "
                "first dimension, but it holds no tensor with so many rows. Use Trainer(accumulate_grad_batches=3) or more."
            )
        rows = sum(count for _, count in pieces)
        with self._aside(trainer, module) as loss:
            pause = Pause(loss, _trained(trainer, module), tuple(self.averages))
            with self._disagreeing():
                probe = pause.probe(iter([Batch(part, size * count / rows) for part, count in pieces]), 1)
                self._take(probe.curved)

    @contextmanager
    def _aside(self, trainer: L.Trainer, module: L.LightningModule) -> Iterator[Callable[[Any], Any]]:
        """``loss_fn`` as the trainer would call it, nothing of which stays behind."""
        function = self._loss_fn
        if function is None:
            raise MisconfigurationException(_no_double_backward(None))

        def loss(batch: Any) -> Any:
            with trainer.precision_plugin.train_step_context():
                return function(module, batch)

        with isolate_rng(), frozen(module):
            try:
                yield loss
            except ReentrantCheckpointError as error:
                raise MisconfigurationException(_reentrant(error)) from error

    @contextmanager
    def _disagreeing(self) -> Iterator[None]:
        try:
            yield
        except DifferencesDisagreeError as error:
            self.skipped += 1
            if self.skipped == 1:
                rank_zero_warn(f"GradientNoiseScale passes over a curvature probe: {error}")
            self._take({})

    def _take(self, probes: dict[str, CurvatureProbe]) -> None:
        """Notes one probe as a row of numbers; one that cannot be used is a row too, so that all ranks have as many."""
        self._due = False
        self._window = None
        row: list[float] = []
        for name in self.averages:
            p = probes.get(name)
            row += [math.nan] * 9 if p is None else [*p.moments, *p.euclidean, p.indefinite]
        self._rows.append(row)

    # ---- reading --------------------------------------------------------------------------------------------------------

    def flush(self, device: torch.device) -> None:
        """Reads what waits: a collective if there are several ranks, so call it on all."""
        if not self._rows:
            return
        rows = torch.tensor(self._rows, dtype=torch.float64, device=device) / self._replicas
        self._rows = []
        for row in (rows if self._reduce is None else self._reduce(rows)).tolist():
            for index, average in enumerate(self.averages.values()):
                part = row[9 * index : 9 * index + 9]
                probe = CurvatureProbe(Moments(*part[:4]), Moments(*part[4:8]), part[8])
                if probe.is_usable:
                    average.update(probe)

    def forget_unread(self) -> None:
        """Drops what waits, without a collective; for after an error."""
        self._rows = []

    def close(self) -> None:
        """Forgets the step in progress and lets go of its memory."""
        self._window, self._parameters, self._forms_of_batch, self._step = None, [], {}, -1

    def state_dict(self) -> dict[str, Any]:
        """Plain Python values, exact; read what waits first."""
        return {name: average.state_dict() for name, average in self.averages.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, as far as the same geometries are measured."""
        for name, average in self.averages.items():
            if name in state:
                average.load_state_dict(state[name])


def watch_curvature(trainer: L.Trainer, module: L.LightningModule, settings: Settings) -> CurvatureWatch | None:
    """The watch for the curvatures that ``settings`` name; ``None`` where they name none.

    Raises:
        MisconfigurationException: they cannot be measured here; names the way out.
    """
    if not settings.curved:
        return None
    loss_fn = trainer_facts.resolve(settings.loss_fn, "loss_fn")
    refuse_curvature(trainer, module, settings.curved, loss_fn)
    return CurvatureWatch(
        settings.curved,
        every_n_steps=settings.every_n_steps or CURVATURE_EVERY,
        decay=settings.decay,
        loss_fn=loss_fn,
        reduce=None if trainer.world_size == 1 else sum_over_ranks,
        replicas=trainer.world_size,
    )


def split(batch: Any, pieces: int) -> list[tuple[Any, int]] | None:
    """(piece, rows) of a batch whose tensors all have as many rows; tensors of other lengths and the rest are shared by all.

    >>> [(part["x"].tolist(), rows) for part, rows in split({"x": torch.arange(5), "n": 3}, 2)]
    [([0, 1, 2], 3), ([3, 4], 2)]
    """
    rows = trainer_facts.rows(batch)
    if rows is None or rows < pieces:
        return None
    sizes = [(rows + i) // pieces for i in reversed(range(pieces))]
    starts = [sum(sizes[:i]) for i in range(pieces)]

    def part(start: int, size: int) -> Any:
        return tree_map(lambda t: t[start : start + size] if isinstance(t, Tensor) and t.ndim and len(t) == rows else t, batch)

    return [(part(start, size), size) for start, size in zip(starts, sizes, strict=True)]


def refuse_curvature(trainer: L.Trainer, module: L.LightningModule, geometries: Sequence[str], loss_fn: Any) -> None:
    """Refuses set-ups in which a curvature cannot be measured, before training starts.

    Raises:
        MisconfigurationException: names the way out.
    """
    named = f"`GradientNoiseScale`: geometry {geometries[0]!r}"
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"{named} needs automatic optimization, but {type(module).__name__} steps by itself. Use measure_noise_scale at a "
            "checkpoint, with a loss_fn for each optimizer."
        )
    most = trainer_facts.facts(trainer).greatest
    if most < 3 and loss_fn is None:
        raise MisconfigurationException(
            f"{named} needs the gradients of two micro-batches and the curvature of a third, but there "
            f"{'is one' if most == 1 else f'are {most}'} a step (accumulate_grad_batches={most}) and no loss_fn. {WAY_OUT}"
        )


def _no_double_backward(error: Exception | None) -> str:
    return (
        f"`GradientNoiseScale`: geometry 'hessian' needs second derivatives, and the loss has none ({error}). Pass loss_fn, "
        "(module, batch) -> mean loss, whose central differences take their place; or leave out the geometry. For attention, "
        "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) in the training step has them too."
    )


def _reentrant(error: ReentrantCheckpointError) -> str:
    return f"`GradientNoiseScale`: {error} Or leave out the geometry."


def _trained(trainer: L.Trainer, module: L.LightningModule) -> list[Parameter]:
    return [p for p in trainer_facts.trained_parameters(module, trainer.optimizers[0]).values() if p.requires_grad]


def _scale(trainer: L.Trainer, module: L.LightningModule) -> float:
    """Factor on every micro-batch's mean loss: one over their number, times what mixed precision puts on it."""
    scale = trainer_facts.loss_scale(trainer, module.device)
    return (1.0 if scale is None else float(scale)) / trainer.accumulate_grad_batches
