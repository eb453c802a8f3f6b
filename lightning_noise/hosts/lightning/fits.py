"""The fits that one callback measures, one after the other, and what is kept between them."""

from collections.abc import Mapping
from typing import Any

import lightning as L

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.hosts.lightning.adapter import adapting_by
from lightning_noise.hosts.lightning.checkpoint import VERSION, reading_checkpoint, upgraded
from lightning_noise.hosts.lightning.fit import Fit
from lightning_noise.hosts.lightning.settings import Settings
from lightning_noise.hosts.lightning.split import Split
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException
from lightning_noise.measure.session import Session
from lightning_noise.say.verdict import Verdict

NESTED = (
    "`GradientNoiseScale`: give the inner Trainer a callback of its own. This one measures another "
    "fit, which is still running, and one callback measures one fit at a time."
)


class Fits:
    """Begins and ends fits; a fit of the same module continues the averages of the previous fit.

    Args:
        settings: the callback's arguments.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._split = Split(settings.split)
        self._adapting = adapting_by(settings.adaptive, settings.unit, self._split)
        self._fit: Fit | None = None  # the latest one
        self._running = False
        # restored, for the start of the next fit
        self._state: Mapping[str, Any] | None = None

    def set_up(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit is set up: nothing has asked for its loaders yet.

        Raises:
            MisconfigurationException: its batches cannot be split, or another fit is still running.
        """
        self._refuse_nested(trainer)
        self._split.open(trainer, module)

    def _refuse_nested(self, trainer: L.Trainer) -> None:
        if self._is_nested(trainer):
            raise MisconfigurationException(NESTED)

    def begin(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins.

        Raises:
            MisconfigurationException: the set-up cannot give a right number, or another fit is
                still running.
        """
        self._refuse_nested(trainer)
        state = self._state
        if not state and self._continues(module):
            state = self.state_dict()
        fit = Fit(trainer, module, self._settings, self._adapting, self._split)
        self._fit = fit
        self._state = None
        self._running = True
        with reading_checkpoint(state):
            fit.begin(state)

    def _is_nested(self, trainer: L.Trainer) -> bool:
        if self._fit is None or not self._running:
            return False
        return self._fit.trainer is not trainer and self._fit.is_running

    def _continues(self, module: L.LightningModule) -> bool:
        return self._fit is not None and self._fit.module is module

    def of(self, trainer: L.Trainer) -> Fit:
        """The fit of ``trainer``.

        Raises:
            RuntimeError: there is none.
        """
        if self._fit is None or not self._running or self._fit.trainer is not trainer:
            raise RuntimeError(
                "GradientNoiseScale: a hook was called outside of fit; on_fit_start was skipped."
            )
        return self._fit

    def validation_starts(self, trainer: L.Trainer) -> None:
        """A validation begins, within a fit or without one."""
        if self._running and self._fit is not None and self._fit.trainer is trainer:
            self._fit.validation_starts()

    def end(self, trainer: L.Trainer) -> None:
        """The fit has ended well."""
        self.of(trainer).ends()
        self.close(trainer)

    def close(self, trainer: L.Trainer) -> None:
        """Removes every hook; may be called twice, and for a trainer that this callback does not
        measure.
        """
        fit = self._fit
        if fit is not None and fit.trainer is trainer:
            fit.close()
            self._running = False
        self._split.close(trainer)

    def fail(self, trainer: L.Trainer, error: BaseException) -> None:
        """The fit has ended with an error: after it Lightning calls no ``teardown``."""
        fit = self._fit
        if fit is not None and fit.trainer is trainer:
            fit.fail(error)
            self._running = False
        self._split.close(trainer)

    # What is asked for

    @property
    def session(self) -> Session:
        """The measurement of the latest fit.

        Raises:
            RuntimeError: before the first fit.
        """
        if self._fit is None:
            raise RuntimeError("GradientNoiseScale.session needs a fit: call Trainer.fit first.")
        return self._fit.session

    def estimate(self, key: Key) -> NoiseEstimate | None:
        """The estimate of a key; ``None`` before the first fit, and if the key is not measured."""
        if self._fit is None or key not in self.session.readings.averages:
            return None
        return self.session.estimate(key)

    def trajectories(self) -> dict[Key, Trajectory]:
        """By key; empty before the first fit."""
        if self._fit is None:
            return {}
        return dict(self._fit.session.trajectories)

    def verdict(self, optimizer: str) -> Verdict:
        """The verdict on one optimizer.

        Raises:
            RuntimeError: before the first fit.
            KeyError: no optimizer has this name.
        """
        if self._fit is None:
            raise RuntimeError("GradientNoiseScale.verdict() needs a fit: call Trainer.fit first.")
        for verdict in self._fit.verdicts():
            if verdict.optimizer == optimizer:
                return verdict
        raise KeyError(optimizer)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything measured and decided, as plain Python values."""
        if self._fit is None:
            return dict(self._state or {})
        measured = self._fit.state_dict()
        return {"version": VERSION, **measured, **self._parts()}

    def _parts(self) -> dict[str, Any]:
        return {**self._split.state_dict(), **self._adapting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state at the start of the next fit, or immediately in the middle of a fit.

        Raises:
            CheckpointError: it is damaged, or of a later version.
        """
        with reading_checkpoint(state):
            state = upgraded(state)
            self._state = state
            # in mid-fit: a search within fit, or a strategy that restores late
            if self._running and self._fit is not None and state:
                self._fit.load_state_dict(state)
                self._state = None
            self._split.load_state_dict(state)
            self._adapting.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold what was measured, but not the fit with its hooks and trainer."""
        return {
            "settings": self._settings,
            "state": self.state_dict() or None,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(saved["settings"])  # type: ignore[misc]  # as if built anew
        if saved["state"]:
            self.load_state_dict(saved["state"])
