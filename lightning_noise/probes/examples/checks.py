"""The two checks of the first step and every 1000th: do sums agree, and do examples mix?"""

from collections.abc import Container, Mapping
from contextlib import ExitStack

import torch
from torch.nn import Parameter

from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.errors import UnsupportedModelError
from lightning_noise.probes.examples.mixing import Mixing
from lightning_noise.probes.examples.refusals import mixed_examples
from lightning_noise.probes.examples.self_check import SelfCheck

CHECK_EVERY = 1000  # measured steps
NO_LOSS = (
    "layers and loss: the probe was not given the loss before its backward pass, as with several "
    "optimizers, or in a loop that does not call watch_loss"
)


class Checks:
    """When the checks are made, and what they have shown of one model.

    The self-check extends over all micro-batches of a step. The check on mixing is made in the
    first one. If the self-check cannot be completed in a step, it is repeated in the next step.

    Attributes:
        mixed: the refusal, if examples mix.
        unchecked: the parts of the check on mixing that could not be made, and why.
        sums: the self-check of the step in progress; ``None`` in other steps.
    """

    def __init__(self) -> None:
        self.mixed: UnsupportedModelError | None = None
        self.unchecked: tuple[str, ...] = ()
        self.sums: SelfCheck | None = None
        self._compared: set[str] = set()  # parameters that took part in a self-check
        self._since = 0  # measured steps since the last one
        self._mixing: Mixing | None = None
        self._awaits_mixing = False
        self._hooks = ExitStack()

    def due(self, covered: Mapping[str, Parameter]) -> bool:
        """Whether the step that begins should be checked."""
        return self._since >= CHECK_EVERY or not self._compared.issuperset(covered)

    def open(self, device: torch.device) -> None:
        """The step that begins is checked."""
        self._awaits_mixing = True
        self.sums = SelfCheck(device)

    def begin(self, sums: SelfCheck, covered: Mapping[str, Parameter]) -> None:
        """A backward pass begins in a step with a self-check."""
        self._hooks.enter_context(sums.attach(covered))
        sums.begin()

    @property
    def wants_loss(self) -> bool:
        """Whether the check on mixing has yet to be made in this step."""
        return self._awaits_mixing and self._mixing is None

    def take_mixing(self, found: Mixing) -> None:
        """Takes what the check on mixing has shown."""
        self._mixing = found

    def end(self, *, complete: bool) -> None:
        """The backward pass is over. ``complete`` says whether all of it was seen."""
        if self.sums is not None:
            self.sums.end()
            self._hooks.close()
        if not complete:
            self.sums = None  # postponed to the next step

    def compare(self, covered: Mapping[str, Parameter]) -> dict[str, Cause] | None:
        """Parameters to leave out, by the self-check.

        ``None`` if nothing was compared: in steps without a self-check, and after an overflow.
        Waits for the device.
        """
        found = None
        if self.sums is not None:
            found = self.sums.verdict()
        self._since += 1
        if found is None:
            return None
        self._compared |= covered.keys()
        self._since = 1
        return {name: cause for name, cause in found.items() if name in covered}

    def settle(self, positions: Container[str]) -> None:
        """Draws the conclusion from the check on mixing, at the end of a step.

        Args:
            positions: layers whose rows are positions, which may mix.
        """
        if not self._awaits_mixing:
            return
        found = self._mixing
        if found is None:
            self.unchecked = (NO_LOSS,)
            return
        self.unchecked = found.unchecked
        layers = [layer for layer in found.layers if layer not in positions]
        self.mixed = mixed_examples(layers, found.loss)

    def close(self) -> None:
        """Forgets the step in progress, and removes its hooks."""
        self.sums = None
        self._mixing = None
        self._awaits_mixing = False
        self._hooks.close()
