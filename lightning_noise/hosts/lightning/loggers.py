"""From estimates to log keys and loggers."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_noise.hosts.lightning.board import Interval, show
from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.say.log_keys import PREFIX, prefix


def publish(
    trainer: L.Trainer,
    values: Mapping[str, float],
    step: int,
    *,
    optimizers: Sequence[str] = ("",),
    prog_bar: bool = False,
) -> None:
    """Passes the values to every logger and to ``callback_metrics``; ``step`` is on the x-axis of
    ``LightningModule.log``.

    ``LightningModule.log`` itself is not used, because it repeats the last value of a key that is
    absent later.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)
        if isinstance(logger, either(TensorBoardLogger)) and trainer.is_global_zero:
            intervals = {name: _interval(values, prefix(name)) for name in optimizers}
            show(logger.experiment, intervals, step)
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    _replace(trainer.callback_metrics, tensors)
    if prog_bar:
        shown = {name: value for name, value in values.items() if name.endswith("/b_simple")}
        _replace(trainer.progress_bar_metrics, shown)


def _interval(values: Mapping[str, float], head: str) -> Interval | None:
    low = values.get(f"{head}b_simple_low")
    if low is None:
        return None
    return Interval(
        low=low,
        noise_scale=values.get(f"{head}b_simple"),
        high=values.get(f"{head}b_simple_high"),
        global_size=values.get(f"{head}global_size"),
    )


def _replace(metrics: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name in list(metrics):
        if name.startswith(PREFIX) and name not in values:
            del metrics[name]
    metrics.update(values)
