"""What an adaptive batch size needs to know of a session."""

from lightning_noise.hosts.lightning.adapting import Measured
from lightning_noise.measure.session import Session


class MeasuredBySession(Measured):
    """The first optimizer of a session, as an adapter sees it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read(self) -> object:
        """Reads what waits; on all ranks."""
        return self._session.read()

    def resized(self) -> None:
        """The batch size changes from here on."""
        self._session.resized()

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
