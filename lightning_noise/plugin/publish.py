"""From estimates to log keys, loggers and TensorBoard's layout."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.tradeoff import examples_factor, steps_factor
from lightning_noise.measure.monitor import Monitor

PREFIX = "noise_scale/"
INTERVAL = ("b_simple", "b_simple_low", "b_simple_high")
BAND = tuple(f"noise_scale_band/{name}" for name in INTERVAL)
LAYOUT = {
    "noise scale": {
        "b_simple with its 95 % interval": ["Margin", list(BAND)],
        "b_simple and the batch size in use": ["Multiline", [f"{PREFIX}b_simple$", f"{PREFIX}global_size$"]],
    }
}


def log_values(monitor: Monitor, learning_rate: float) -> dict[str, float]:
    """What is logged now, by key; a value that cannot be said has no key.

    Empty until a step has been measured.
    """
    estimates = {key: monitor.estimate(key) for key in monitor.windows}
    values: dict[str, float | None] = {}
    for key, estimate in estimates.items():
        if key.layer:
            values[f"layer/{key.layer}"] = estimate.b_simple
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
    return {PREFIX + name: value for name, value in values.items() if value is not None}


def _headline(estimate: NoiseEstimate) -> dict[str, float | None]:
    return {
        **dict(zip(INTERVAL, (estimate.b_simple, estimate.low, estimate.high), strict=True)),
        "grad_sq": estimate.grad_sq,
        "trace": estimate.trace,
    }


def publish(trainer: L.Trainer, values: Mapping[str, float], step: int, *, prog_bar: bool) -> None:
    """Hands the values to every logger and to ``callback_metrics``; ``step`` is on the x-axis of ``LightningModule.log``.

    Not through ``LightningModule.log``: that repeats the last value of a key that is absent from then on.
    """
    for logger in trainer.loggers:
        logger.log_metrics({**values, **_band(values)} if isinstance(logger, TensorBoardLogger) else dict(values), step=step)
    _replace(trainer.callback_metrics, {name: torch.tensor(value) for name, value in values.items()})
    if prog_bar:
        shown = f"{PREFIX}b_simple"
        _replace(trainer.progress_bar_metrics, {shown: values[shown]} if shown in values else {})


def _band(values: Mapping[str, float]) -> dict[str, float]:
    """The interval once more, where it is whole: TensorBoard's margin chart refuses three series that differ in their steps."""
    whole = all(PREFIX + name in values for name in INTERVAL)
    return {tag: values[PREFIX + name] for tag, name in zip(BAND, INTERVAL, strict=True)} if whole else {}


def _replace(metrics: dict[str, Any], values: Mapping[str, Any]) -> None:
    for stale in [name for name in metrics if name.startswith(PREFIX) and name not in values]:
        del metrics[stale]
    metrics.update(values)


def write_layout(trainer: L.Trainer) -> None:
    """Writes the custom-scalars layout to TensorBoard, on rank 0."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_custom_scalars(LAYOUT)
