"""What a callback calls to let the batch size of a fit adapt, and what it must provide for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import lightning as L

from lightning_noise.adapt.step_times import StepTimes
from lightning_noise.core.estimate import NoiseEstimate


class Measured(Protocol):
    """What adapting needs to know of the measurement; the same on all ranks."""

    def read(self) -> object:
        """Reads the steps that wait, so that all steps so far are counted. A collective."""
        ...

    def resized(self) -> None:
        """From here on, steps use a different number of examples. A collective."""
        ...

    def abandon(self) -> None:
        """Forgets the optimizer step in progress, which is about to be made again."""
        ...

    def batch_starts(self, batch: Any) -> None:
        """A batch of such a step, which the trainer does not announce, is about to go forward."""
        ...

    def batch_ends(self) -> None:
        """All passes over that batch are over."""
        ...

    @property
    def may_rest(self) -> bool:
        """Whether some steps may go without being measured: the user has not said how often."""
        ...

    def measure_every(self, steps: int) -> None:
        """Measures one of so many steps from now on, where that is left to adapting."""
        ...

    @property
    def measured_step(self) -> bool:
        """Whether the gradients of the latest optimizer step were measured."""
        ...

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of the run."""
        ...

    @property
    def examples(self) -> float:
        """Examples used by all ranks."""
        ...

    @property
    def global_size(self) -> float | None:
        """Examples of an optimizer step, in the user's unit; ``None`` while none was measured."""
        ...

    @property
    def data_size(self) -> float | None:
        """Examples of a finite data set, some of which have been used again."""
        ...

    @property
    def noise_scale(self) -> float | None:
        """The noise scale; ``None`` where it is not resolved."""
        ...


class Adapting(ABC):
    """Whether and how the batch size of a fit follows the noise scale: what a callback calls."""

    @property
    @abstractmethod
    def decides(self) -> bool:
        """Whether decisions are taken, even if only for advice."""

    @property
    @abstractmethod
    def factor(self) -> float:
        """The factor that the learning rate has now."""

    @abstractmethod
    def open(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        measured: Measured,
        *,
        forget: bool,
        estimate: Callable[[float], NoiseEstimate],
    ) -> None:
        """A fit begins, before its loaders are prepared.

        Args:
            trainer: of the fit.
            module: of the fit.
            measured: of the fit.
            forget: whether this is a fit of another module, without a checkpoint.
            estimate: from a confidence to the noise scale that the policy follows.

        Raises:
            MisconfigurationException: the batch size of this set-up cannot adapt; names the fix.
        """

    @abstractmethod
    def check(self, trainer: L.Trainer) -> None:
        """The loaders are prepared: compares their sizes with those of a checkpoint.

        Raises:
            MisconfigurationException: the batch size of a loader cannot be changed, or is above
                ``max_local_size``.
        """

    @abstractmethod
    def begin_epoch(self, trainer: L.Trainer) -> None:
        """An epoch begins; its loaders have just been prepared."""

    @abstractmethod
    def prepare_loaders(self, trainer: L.Trainer) -> None:
        """Prepares the training loaders again, immediately, if a decided change waits."""

    @abstractmethod
    def end_epoch(self, trainer: L.Trainer) -> None:
        """An epoch has ended and all its steps have been read."""

    @abstractmethod
    def end_training(self) -> None:
        """A run ends without another decision."""

    @abstractmethod
    def watch_batch(self, trainer: L.Trainer, outputs: object) -> None:
        """A batch has been trained on, with these outputs; comes before :meth:`after_batch`."""

    @abstractmethod
    def interrupt(self) -> None:
        """Something else than an optimizer step begins, such as a validation."""

    @abstractmethod
    def after_batch(self, trainer: L.Trainer, *, decides: bool = True) -> None:
        """A batch has been trained on; ``decides``: whether a decision may be taken."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """What is logged along with the estimates, by key."""

    @abstractmethod
    def story(self) -> list[str]:
        """Lines of the verdict."""

    @abstractmethod
    def step_times(self) -> StepTimes:
        """Of the optimizer steps that were timed."""

    @abstractmethod
    def close(self) -> None:
        """Restores the trainer and the loaders; may be called twice."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The part of the callback's state that belongs here, as plain Python values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` from the state of the callback, immediately within a fit.

        Raises:
            KeyError: a part is missing.
            TypeError: a part is damaged.
        """


class NoAdapting(Adapting):
    """The batch size stays what the user gave."""

    @property
    def decides(self) -> bool:
        return False

    @property
    def factor(self) -> float:
        return 1.0

    def open(self, *_: object, **__: object) -> None:
        pass

    def check(self, trainer: L.Trainer) -> None:
        pass

    def begin_epoch(self, trainer: L.Trainer) -> None:
        pass

    def prepare_loaders(self, trainer: L.Trainer) -> None:
        pass

    def end_epoch(self, trainer: L.Trainer) -> None:
        pass

    def end_training(self) -> None:
        pass

    def watch_batch(self, trainer: L.Trainer, outputs: object) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def after_batch(self, trainer: L.Trainer, *, decides: bool = True) -> None:
        pass

    def values(self) -> dict[str, float]:
        return {}

    def story(self) -> list[str]:
        return []

    def step_times(self) -> StepTimes:
        return StepTimes()

    def close(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
