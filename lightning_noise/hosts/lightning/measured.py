"""What an adaptive batch size needs to know of a session."""

from collections.abc import Callable
from typing import Any

from lightning_noise.hosts.lightning.adapting import Measured
from lightning_noise.measure.session import Session


class MeasuredBySession(Measured):
    """The first optimizer of a session, as an adapter sees it.

    Args:
        session: of the fit.
        batch_starts: of the fit, for a batch that the trainer does not announce.
        batch_ends: of the fit, likewise.
    """

    def __init__(
        self,
        session: Session,
        batch_starts: Callable[[Any], None],
        batch_ends: Callable[[], None],
    ) -> None:
        self._session = session
        self._batch_starts = batch_starts
        self._batch_ends = batch_ends

    def abandon(self) -> None:
        """Forgets the step in progress."""
        self._session.abandon()

    def batch_starts(self, batch: Any) -> None:
        """A batch is about to go forward."""
        self._batch_starts(batch)

    def batch_ends(self) -> None:
        """All passes over it are over."""
        self._batch_ends()

    def read(self) -> object:
        """Reads what waits; on all ranks."""
        return self._session.read()

    def resized(self) -> None:
        """The batch size changes from here on."""
        self._session.resized()

    @property
    def may_rest(self) -> bool:
        """Neither the user nor the probe has said how often to measure."""
        return self._session.chooses_every_step

    def measure_every(self, steps: int) -> None:
        """Measures one of so many steps from now on, unless the user or the probe has said."""
        if self.may_rest:
            self._session.measure_every(steps)

    @property
    def measured_step(self) -> bool:
        """Whether the gradients of the latest optimizer step were measured."""
        return self._session.tracks[0].measured_latest

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps so far."""
        return self._session.tracks[0].optimizer_steps

    @property
    def examples(self) -> float:
        """Examples used so far, by all ranks."""
        return self._session.tally.examples

    @property
    def global_size(self) -> float | None:
        """Examples that one optimizer step uses."""
        return self._session.tally.global_size

    @property
    def data_size(self) -> float | None:
        """Examples of a finite data set whose examples repeat."""
        return self._session.tally.data_size

    @property
    def noise_scale(self) -> float | None:
        """The noise scale now; ``None`` where it is not resolved."""
        return self._session.estimate().noise_scale
