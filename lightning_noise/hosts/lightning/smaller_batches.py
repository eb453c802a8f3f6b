"""Goes back to the last batch size that memory held, in the middle of a step."""

from collections.abc import Callable
from typing import Any

from lightning_noise.adapt.actions import Action
from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.decisions import Measurement
from lightning_noise.hosts.lightning.adapting import Measured
from lightning_noise.hosts.lightning.out_of_memory import Redo
from lightning_noise.hosts.lightning.trainer_controls import TrainerControls

CANNOT = (
    "GradientNoiseScale: use AdaptiveBatchSize(max_local_size={fits}). Memory did not hold a batch "
    "of {tried}, and its step cannot be made again with the last size that fitted, because "
    "{reason}."
)


class SmallerBatches(Redo):
    """Lets an adaptation and the trainer's loaders go back together.

    Args:
        adaptation: of the fit.
        controls: of the fit.
        measured: of the fit.
        measurement: gives what has been measured so far.
        perform: performs actions.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        controls: TrainerControls,
        measured: Measured,
        measurement: Callable[[], Measurement],
        perform: Callable[[list[Action]], None],
    ) -> None:
        self._adaptation = adaptation
        self._controls = controls
        self._measured = measured
        self._measurement = measurement
        self._perform = perform

    @property
    def has_grown(self) -> bool:
        """Whether the last change made the micro-batches larger."""
        return self._adaptation.can_go_back

    def reason(self) -> str:
        """Why the step cannot be made again; "" where it can."""
        sizes = self._adaptation.state.sizes
        if sizes is None or sizes.previous is None:
            return ""
        fits = sizes.previous.plan
        reason = self._controls.inside.reason_to_stay()
        if self._controls.first_of_step % fits.accumulation:
            reason = "a step of the last size would not begin with one of its batches"
        if not reason:
            return ""
        tried = sizes.current.local_size
        return CANNOT.format(fits=fits.local_size, tried=tried, reason=reason)

    def go_back(self) -> int:
        """Takes the last size, forgets what was measured of the step and draws its examples anew.

        Returns:
            The number of the first batch of the step, in the epoch.
        """
        self._measured.abandon()
        first = self._controls.first_of_step
        self._measured.read()
        actions = self._adaptation.out_of_memory(self._measurement())
        self._perform(actions)
        self._controls.go_back(first)
        return first

    def batch_starts(self, batch: Any) -> None:
        """A batch is about to go forward."""
        self._measured.batch_starts(batch)

    def batch_ends(self) -> None:
        """All passes over it are over."""
        self._measured.batch_ends()
