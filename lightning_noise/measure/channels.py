"""The channels of a session: a track for every optimizer, and the curvature."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.measure.curvature_channel import CurvatureChannel
from lightning_noise.measure.curvature_reasons import curvature_reason
from lightning_noise.measure.layer_keys import list_keys
from lightning_noise.measure.pending_rows import PendingRows, ReadRow
from lightning_noise.measure.readings import Average, Readings
from lightning_noise.measure.track import Track
from lightning_noise.measure.what import CURVATURE_EVERY, What
from lightning_noise.probes.catalogue import choose
from lightning_noise.probes.double_float import has_float64
from lightning_noise.probes.preconditioner import Preconditioner, UnknownPreconditionerError
from lightning_noise.probes.probe import Context, Diagonal, Probe
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.sharding import is_sharded

SHARDED_CURVATURE = Reason(
    "sharded_curvature",
    Severity.REFUSE,
    "geometries 'hessian' and 'gauss_newton' differentiate twice through the whole model, of which "
    "every rank holds a shard",
    "Use geometry='euclidean', or measure_noise_scale on a consolidated checkpoint.",
)
SHARDED_METRIC = Reason(
    "sharded_metric",
    Severity.REFUSE,
    "geometry 'optimizer' weighs whole gradients by the optimizer's state, of which every rank "
    "holds a shard: it would have to be gathered in every step",
    "Use geometry='euclidean', or measure_noise_scale on a consolidated checkpoint.",
)


class Model(NamedTuple):
    """What is trained.

    Args:
        named: gives the named parameters.
        optimizers: by name; ``None`` stands for one that updates all parameters.
        module: for single examples, and for curvatures by ``loss_fn``.
    """

    named: Callable[[], Iterable[tuple[str, Parameter]]]
    optimizers: dict[str, Optimizer | None]
    module: nn.Module | None

    def trained(self, name: str) -> dict[str, Parameter]:
        """Named parameters that an optimizer updates."""
        optimizer = self.optimizers[name]
        if optimizer is None:
            return dict(self.named())
        updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {full: p for full, p in self.named() if id(p) in updated}


def open_tracks(what: What, setup: Setup, model: Model, rows: PendingRows) -> list[Track]:
    """A track for every optimizer.

    Raises:
        CannotMeasureError: a step of one of them will not have two groups of gradients.
    """
    tracks: list[Track] = []
    for name in model.optimizers:
        wanted = what.probe
        if tracks:  # a probe watches one optimizer
            wanted = copy.deepcopy(wanted)
        tracks.append(_open_track(name, wanted, what, setup, model, rows))
    return tracks


def _open_track(
    name: str, wanted: str | Probe, what: What, setup: Setup, model: Model, rows: PendingRows
) -> Track:
    trained = model.trained(name)
    probe, offer = choose(wanted, setup, model.module, trained)
    every_n_steps = what.every_n_steps or probe.every_n_steps
    if every_n_steps != (what.every_n_steps or 1):
        often = f"one of every {every_n_steps} steps is measured"
        offer = offer._replace(reason=f"{offer.reason}; {often}")
    layers = trained
    if not name:
        layers = dict(model.named())  # those unfrozen later are numbered too
    keys: dict[Key, Sequence[str]] = {}
    keys |= list_keys(layers, what.per_layer)
    if what.keys is not None:
        keys = dict(what.keys)
    diagonal = None
    if "optimizer" in what.geometries:
        keys[Key("optimizer")] = list(layers)
        diagonal = _preconditioner(probe, model.optimizers[name])
    return Track(
        name,
        probe,
        offer,
        keys,
        rows,
        context=Context(setup.ranks, diagonal, setup.tap),
        every_n_steps=every_n_steps,
        optimizer=model.optimizers[name],
    )


def open_curvature(
    what: What, setup: Setup, model: Model, rows: PendingRows, warn: Callable[[str], None]
) -> "CurvatureChannel | NoCurvature":
    """The curvature of the first optimizer's parameters, where it is wanted.

    Raises:
        CannotMeasureError: it cannot be measured in this run.
    """
    if not what.curved:
        return NoCurvature()
    if is_sharded(model.module, dict(model.named()).values()):
        raise CannotMeasureError([SHARDED_CURVATURE])
    reason = curvature_reason(setup, what.curved, what.loss_fn)
    first = next(iter(model.optimizers))
    if reason is None:
        reason = float64_reason(what.curved[0], _device_of(model.trained(first)))
    if reason is not None:
        raise CannotMeasureError([reason])
    return CurvatureChannel(
        what.curved,
        rows,
        model.module,
        lambda: model.trained(first),
        setup,
        every_n_steps=what.every_n_steps or CURVATURE_EVERY,
        loss_fn=what.loss_fn,
        warn=warn,
    )


def float64_reason(geometry: str, device: torch.device) -> Reason | None:
    """Why a curvature cannot be measured on a device; ``None`` where it can."""
    if has_float64(device):
        return None
    return Reason(
        "no_float64",
        Severity.REFUSE,
        f"geometry {geometry!r} sums its products in float64, which the {device.type} device does "
        "not have",
        "Measure on the CPU or on CUDA, or use geometry='euclidean' or 'optimizer'.",
    )


def _device_of(parameters: Mapping[str, Parameter]) -> torch.device:
    for parameter in parameters.values():
        return parameter.device
    return torch.device("cpu")


class NoCurvature:
    """Stands where no curvature is measured."""

    skipped = 0

    def averages(self, decay: float) -> dict[Key, Average]:
        """None."""
        return {}

    def batch(self, batch: Any, size: float | None, *, accumulation: int, step: int) -> None:
        """Nothing to do."""

    def before_backward(self, loss: Tensor, scale: Callable[[], float]) -> None:
        """Nothing to do."""

    def after_backward(self, size: float | None) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def read(self, row: ReadRow, readings: Readings) -> None:
        """Nothing to do."""


def _preconditioner(probe: Probe, optimizer: Optimizer | None) -> Diagonal:
    if probe.sees_shards and "optimizer" not in probe.metrics:
        raise CannotMeasureError([SHARDED_METRIC])
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
