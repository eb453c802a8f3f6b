"""Small calls wait until the backward pass is over: those of one kind are then taken at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.inventory import Slot
from lightning_noise.probes.examples.listener import Kept
from lightning_noise.probes.small import bytes_held

SMALL = 2**15  # elements of a call's inputs and of the gradient at its output


class Held(NamedTuple):
    """One call, and the gradient at its output."""

    slot: Slot
    grad: Tensor
    kept: Kept

    @property
    def shapes(self) -> tuple[object, ...]:
        """Of the tensors, with their data types: calls that agree in them can be joined."""
        tensors = (self.grad, *self.kept.held)
        return tuple((tensor.shape, tensor.dtype) for tensor in tensors)


class Joined(NamedTuple):
    """Several calls as one: the examples of one call after those of the other."""

    inputs: tuple[Tensor, ...]
    grad: Tensor


class Later:
    """Calls that are held until their backward pass is over.

    A kernel for a small call takes far longer to launch than to run. Inputs and gradients stay in
    memory for that long, so that all calls together may take a few megabytes.

    Args:
        device: of the parameters.

    Attributes:
        held: the calls.
    """

    def __init__(self, device: torch.device) -> None:
        self._room = bytes_held(device)
        self._taken = 0
        self.held: list[Held] = []

    def hold(self, slot: Slot, grad: Tensor, kept: Kept) -> bool:
        """Holds a call, and returns whether it does; else it must be taken now."""
        # what is packed must be unpacked within the backward pass; what waits was seen before
        if kept.is_packed or kept.waits or slot.rule.kind() is None:
            return False
        elements = grad.numel() + kept.elements
        taken = self._taken + elements * grad.element_size()
        if elements > SMALL or taken > self._room:
            return False
        self._taken = taken
        kept.waits = True
        self.held.append(Held(slot, grad, kept))
        return True

    def clear(self) -> list[Held]:
        """Returns what was held, and holds it no more."""
        held, self.held = self.held, []
        self._taken = 0
        return held


def join(calls: Sequence[Held]) -> Joined | None:
    """Calls with tensors of the same shapes as one; ``None`` if inputs of one are gone.

    Raises:
        NotPerExample: an input was modified in place after its call.
    """
    inputs: list[tuple[Tensor, ...]] = []
    for call in calls:
        found = call.kept.read()
        if found is None:
            return None
        inputs.append(found)
    joined = tuple(map(torch.cat, zip(*inputs, strict=True)))
    return Joined(joined, torch.cat([call.grad for call in calls]))
