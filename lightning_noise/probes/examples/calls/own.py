"""Gradients of a derived tensor that has numbers for every example, as a state that is scaled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.placed import check_held
from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.precision import row_norms


class Own(Contribution):
    """c_i is the gradient of the whole batch where the numbers of example i are, and 0 elsewhere.

    Args:
        gradient: of the whole batch, of the tensor's shape.
        fold: where the examples lie in it.
    """

    def __init__(self, gradient: Tensor, fold: Fold) -> None:
        self.gradient = gradient
        self.fold = fold
        self.examples = fold.examples
        self.numbers = gradient.numel()

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, \\*tensor.shape)."""
        dim = self.fold.dim
        owners = self.fold.owner_of(self.gradient.shape[dim], self.gradient.device)
        examples = torch.arange(self.examples, device=owners.device)[rows]
        is_own = owners == examples.unsqueeze(1)  # (rows, size of the dimension)
        behind = [1] * (self.gradient.dim() - 1 - dim)
        is_own = is_own.view(len(examples), *[1] * dim, -1, *behind)
        return self.gradient * is_own

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """The gradients as they are."""
        check_held(self)
        return super().sketch(form, signs)

    def exact_is_cheap(self, sketches: int) -> bool:
        """Always true: nothing is built."""
        return True

    def norms(self) -> list[Tensor]:
        """Of the numbers of every example."""
        return [row_norms(self.fold.rows(self.gradient).flatten(1))]

    def total(self) -> Tensor:
        """The gradient of the whole batch."""
        return self.gradient


def own_fold(size: Sequence[int], at: Fold, shape: Sequence[int]) -> Fold | None:
    """Where the examples lie in a tensor that was broadcast to a shape in which they lie ``at``.

    ``None``: its numbers are the same for all examples.

    >>> own_fold((4, 1, 3), Fold(4), (4, 7, 3))
    Fold(examples=4, dim=0, inner=1, owners=None)
    >>> own_fold((7, 3), Fold(4), (4, 7, 3)), own_fold((1, 7, 3), Fold(4), (4, 7, 3))
    (None, None)
    """
    dim = at.dim - (len(shape) - len(size))
    if dim < 0 or size[dim] != shape[at.dim] or size[dim] == 1:
        return None
    return at._replace(dim=dim)
