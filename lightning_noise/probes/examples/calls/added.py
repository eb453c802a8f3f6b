"""Gradients of a parameter that is behind several operands of one call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.placed import check_held
from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.directions import Signs


class Added(Contribution):
    """c_i is the sum of its parts.

    Args:
        parts: gradients of the parameter, one from each operand.
        shape: of the parameter.
    """

    def __init__(self, parts: Sequence[Contribution], shape: torch.Size) -> None:
        self.parts = parts
        self.shape = shape
        self.examples = parts[0].examples
        self.numbers = max(part.numbers for part in parts)

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, \\*parameter.shape)."""
        first, *others = [part.build(rows) for part in self.parts]
        total = first.reshape(-1, *self.shape)
        for other in others:
            total = total + other.reshape(-1, *self.shape)
        return total

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """The gradients as they are."""
        check_held(self)
        return super().sketch(form, signs)

    def exact_is_cheap(self, sketches: int) -> bool:
        """There is no other way."""
        return True

    def total(self) -> Tensor:
        """The sum of the totals."""
        total = torch.zeros(())
        for part in self.parts:
            total = total + part.total().reshape(self.shape)
        return total
