"""From estimates to log keys and loggers."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.tradeoff import examples_factor, steps_factor
from lightning_noise.hosts.lightning.board import Interval, show
from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.measure.monitor import Monitor

PREFIX = "noise_scale/"
INTERVAL = ("b_simple", "b_simple_low", "b_simple_high")


def log_values(monitor: Monitor, learning_rate: float, optimizer: str = "") -> dict[str, float]:
    """What is logged now, by key; a value that cannot be said has no key. With several optimizers each has its own keys.

    Empty until a step has been measured.
    """
    estimates = {key: monitor.estimate(key) for key in monitor.readings.windows}
    values: dict[str, float | None] = {}
    for key, estimate in estimates.items():
        if key.layer:
            values[f"layer/{key.layer}"] = estimate.b_simple
        elif key.geometry == "optimizer":
            values |= _bounds("b_optimizer", estimate.b_simple, estimate.low, estimate.high)
        elif estimate.steps:
            values |= _headline(estimate)
    if not estimates or not estimates[Key()].steps:
        return {}
    size, b_simple = monitor.global_size, estimates[Key()].b_simple
    values |= {"learning_rate": learning_rate, "global_size": size}
    if size:
        values["temperature"] = learning_rate / size
        if b_simple is not None and b_simple > 0:
            values["steps_factor"] = steps_factor(size, b_simple)
            values["examples_factor"] = examples_factor(size, b_simple)
    return {prefix(optimizer) + name: value for name, value in values.items() if value is not None}


def curvature_values(averages: Mapping[str, CurvatureAverage]) -> dict[str, float]:
    """What is logged of curvatures, by key; eps_max and dl_max are of the first of them."""
    values: dict[str, float | None] = {}
    for place, (geometry, average) in enumerate(averages.items()):
        if not average.probes:
            continue
        estimate = average.estimate()
        name = "b_noise" if geometry == "hessian" else f"b_{geometry}"
        values |= _bounds(name, estimate.b_simple, estimate.low, estimate.high)
        values |= {f"{geometry}_grad_sq": estimate.grad_sq, f"{geometry}_trace": estimate.trace}
        values[f"{geometry}_indefinite"] = average.indefinite
        if place == 0:
            values |= _bounds("eps_max", *(average.eps_max() or (None, None, None)))
            values |= _bounds("dl_max", *(average.dl_max() or (None, None, None)))
    return {PREFIX + name: value for name, value in values.items() if value is not None}


def _bounds(name: str, value: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def prefix(optimizer: str) -> str:
    """Where the keys of an optimizer begin.

    >>> prefix(""), prefix("Adam-1")
    ('noise_scale/', 'noise_scale/Adam-1/')
    """
    return f"{PREFIX}{optimizer}/" if optimizer else PREFIX


def _headline(estimate: NoiseEstimate) -> dict[str, float | None]:
    return {
        **dict(zip(INTERVAL, (estimate.b_simple, estimate.low, estimate.high), strict=True)),
        "grad_sq": estimate.grad_sq,
        "trace": estimate.trace,
    }


def publish(
    trainer: L.Trainer,
    values: Mapping[str, float],
    step: int,
    *,
    optimizers: Sequence[str] = ("",),
    prog_bar: bool = False,
) -> None:
    """Hands the values to every logger and to ``callback_metrics``; ``step`` is on the x-axis of ``LightningModule.log``.

    Not through ``LightningModule.log``: that repeats the last value of a key that is absent from then on.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)
        if isinstance(logger, either(TensorBoardLogger)) and trainer.is_global_zero:
            intervals = {name: _interval(values, prefix(name)) for name in optimizers}
            show(logger.experiment, intervals, step)
    _replace(trainer.callback_metrics, {name: torch.tensor(value) for name, value in values.items()})
    if prog_bar:
        _replace(trainer.progress_bar_metrics, {name: v for name, v in values.items() if name.endswith("/b_simple")})


def _interval(values: Mapping[str, float], head: str) -> Interval | None:
    low = values.get(f"{head}b_simple_low")
    if low is None:
        return None
    return Interval(
        low=low,
        b_simple=values.get(f"{head}b_simple"),
        high=values.get(f"{head}b_simple_high"),
        global_size=values.get(f"{head}global_size"),
    )


def _replace(metrics: dict[str, Any], values: Mapping[str, Any]) -> None:
    for stale in [name for name in metrics if name.startswith(PREFIX) and name not in values]:
        del metrics[stale]
    metrics.update(values)
