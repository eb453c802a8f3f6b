"""What happens when a session finds inside a run that it cannot measure: training goes on."""

from collections.abc import Callable

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.hosts.lightning.reword import as_text, refusing
from lightning_noise.measure.curvature_channel import CurvatureError
from lightning_noise.measure.session import Session

STAYS = " The batch size stays as it is."


class Measuring:
    """Passes the events of a trainer on to a session, until the session cannot measure.

    Before the first forward pass, and for a probe that the user has named, such an error ends the
    fit. Later it ends the measurement alone: hooks are removed, and a warning gives the fix. What
    ends it is the same on all ranks: the model, the kind of loop, the kind of batch.

    Args:
        trainer: of the fit.
        session: of the fit.
        may_stop: whether the user leaves the choice of the probe to the package.
        adapts: whether the batch size follows the measurement.

    Attributes:
        warnings: what has ended, with its fix; for the verdict.
        is_over: whether nothing is measured any more.
    """

    def __init__(
        self, trainer: L.Trainer, session: Session, *, may_stop: bool, adapts: bool
    ) -> None:
        self._trainer = trainer
        self._session = session
        self._may_stop = may_stop
        self._adapts = adapts
        self._begun = False  # a forward pass
        self.warnings: list[str] = []
        self.is_over = False

    def event(self, happens: Callable[[], None]) -> None:
        """Lets the session know of something, unless the measurement has ended.

        Raises:
            MisconfigurationException: it cannot be measured, and nothing has been trained yet or
                the probe was named.
        """
        if self.is_over:
            return
        try:
            self._let(happens)
        except NoiseScaleError as error:
            if not (self._may_stop and self._begun):
                with refusing(self._trainer):
                    raise
            self._end(error)
        self._begun = True

    def _let(self, happens: Callable[[], None]) -> None:
        try:
            happens()
        except CurvatureError as error:
            if not (self._may_stop and self._begun):
                raise
            self._session.end_curvature()
            self._say("the curvature is no longer measured, and the rest goes on", error)
            happens()

    def _end(self, error: NoiseScaleError) -> None:
        self.is_over = True
        self._session.close()
        stays = STAYS if self._adapts else ""
        self._say("measuring has stopped, and training goes on", error, stays)

    def _say(self, what: str, error: NoiseScaleError, more: str = "") -> None:
        text = f"{what}. {as_text(error, self._trainer)}{more}"
        self.warnings.append(text)
        rank_zero_warn(f"GradientNoiseScale: {text}")
