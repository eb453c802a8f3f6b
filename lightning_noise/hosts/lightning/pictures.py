"""The figure of a run and its verdict, for the loggers that show pictures and texts."""

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import (
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from lightning_noise.core.history import History, Moment
from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.report.errors import NoMatplotlibError
from lightning_noise.report.run_figure import RunPart, draw_run
from lightning_noise.say.log_keys import INTERVAL, prefix
from lightning_noise.say.values import Basis
from lightning_noise.say.verdict import Verdict, headline

# Drawing takes at most this share of the time of a fit; the last figure is drawn in any case.
MOST_TIME = 0.01
# In inches: TensorBoard's cards are 350 pixels wide, where letters of wider figures are too small.
SIZE = (6.0, 6.0)
TENSORBOARD = either(TensorBoardLogger)
WANDB = either(WandbLogger)
MLFLOW = either(MLFlowLogger)
WITH_PICTURES = (*TENSORBOARD, *WANDB, *MLFLOW)


class Pictures:
    """Keeps the course of a fit by optimizer, and shows it at the ends of epochs and of the fit.

    A resumed run is drawn from where it was resumed: earlier values are in the logs.

    Args:
        trainer: of the fit.
        wanted: False shows nothing.
    """

    def __init__(self, trainer: L.Trainer, wanted: bool) -> None:
        self._trainer = trainer
        self._wanted = wanted
        self._histories: dict[str, History] = {}
        self._not_before = 0.0  # by time.monotonic
        self._shown_at: int | None = None  # measured steps

    def are_due(self, measured: int, *, last: bool) -> bool:
        """Whether to draw now.

        Not where no logger of this rank shows pictures, where nothing has been measured since, or
        where drawing would take more than one percent of the fit; ``last`` overrides the latter.

        Args:
            measured: steps measured so far.
            last: whether the fit is over.
        """
        if measured == self._shown_at or not self._histories or not self._loggers():
            return False
        return last or time.monotonic() >= self._not_before

    def add(self, step: int, measured: int, values: Mapping[str, float], optimizer: str) -> None:
        """Takes what was logged of an optimizer at a step, and how many steps were measured."""
        head = prefix(optimizer)
        b, low, high = (values.get(head + name) for name in INTERVAL)
        moment = Moment(step, measured, b, low, high, values.get(f"{head}global_size"))
        self._histories.setdefault(optimizer, History()).add(moment)

    def show(self, verdicts: list[Verdict], step: int, measured: int) -> None:
        """Draws every optimizer's run and passes picture and verdict to the loggers."""
        began = time.monotonic()
        for verdict in verdicts:
            self._show(verdict, step)
        self._shown_at = measured
        took = time.monotonic() - began
        self._not_before = time.monotonic() + took / MOST_TIME

    def _show(self, verdict: Verdict, step: int) -> None:
        history = self._histories.get(verdict.optimizer)
        if history is None:
            return
        title = " ".join(headline(verdict)[:1])
        try:
            part = _part(verdict.basis, history.moments)
            figure = draw_run(
                history.moments,
                part,
                title=title,
                unit=verdict.unit,
                size=SIZE,
            )
        except NoMatplotlibError:
            figure = None
        name = prefix(verdict.optimizer).rstrip("/")
        for logger in self._loggers():
            if figure is not None:
                _show_figure(logger, f"{name}/figure", figure, step)
            _show_text(logger, f"{name}/verdict", str(verdict), step)

    def _loggers(self) -> list[Logger]:
        if not self._wanted or not self._trainer.is_global_zero:
            return []
        return [logger for logger in self._trainer.loggers if isinstance(logger, WITH_PICTURES)]


def _part(basis: Basis | None, moments: list[Moment]) -> RunPart | None:
    """The part of the run that the verdict rests on, on the axis of the loggers."""
    if basis is None:
        return None
    until = None
    if basis.step is not None:
        inside = [moment.step for moment in moments if moment.measured <= basis.step]
        until = max(inside, default=None)
    return RunPart(basis.size, basis.b, basis.low or None, basis.high, until)


def _show_figure(logger: Logger, name: str, figure: Any, step: int) -> None:
    if isinstance(logger, TENSORBOARD):
        # not add_figure, which goes through pyplot and its global state
        pixels = figure.canvas.buffer_rgba()  # Agg's own
        flat = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
        picture = flat.view(pixels.shape)[..., :3]
        logger.experiment.add_image(name, picture, step, dataformats="HWC")
    elif isinstance(logger, WANDB):
        logger.log_image(name, [figure], step=step)
    elif isinstance(logger, MLFLOW):
        logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")


def _show_text(logger: Logger, name: str, text: str, step: int) -> None:
    if isinstance(logger, TENSORBOARD):
        logger.experiment.add_text(name, text.replace("\n", "  \n"), step)
    elif isinstance(logger, WANDB):
        logger.log_text(name, ["verdict"], [[text]], step=step)
    elif isinstance(logger, MLFLOW):
        logger.experiment.log_text(logger.run_id, text, f"{name}.txt")
