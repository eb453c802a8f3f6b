"""Where the examples of a batch lie in a tensor, and how reshaping moves them."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor


class Fold(NamedTuple):
    """The dimension that holds the examples, alone or folded with others.

    The index along ``dim`` is (o · examples + example) · inner + i: of (batch · heads) the heads
    are the inner ones, of (time · batch) the times the outer ones.

    Args:
        examples: of the batch.
        dim: counted from the front.
        inner: numbers of the index that belong to one example and lie together.
    """

    examples: int
    dim: int = 0
    inner: int = 1

    def outer(self, shape: Sequence[int]) -> int:
        """How many times the batch comes along the dimension."""
        return shape[self.dim] // (self.examples * self.inner)

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape can be folded so."""
        if not 0 <= self.dim < len(shape):
            return False
        size = shape[self.dim]
        return size > 0 and size % (self.examples * self.inner) == 0

    def refolded(self, shape: Sequence[int], wanted: Sequence[int]) -> "Fold | None":
        """After a reshape; ``None`` where it tears examples apart.

        A reshape keeps the numbers in order, so each example keeps as many numbers after it.

        >>> Fold(examples=4).refolded((4, 6, 8), (24, 8)), Fold(4, 1).refolded((6, 4, 8), (24, 8))
        (Fold(examples=4, dim=0, inner=6), Fold(examples=4, dim=0, inner=1))
        >>> Fold(examples=4, dim=1).refolded((6, 4, 8), (6, 8, 4))
        Fold(examples=4, dim=1, inner=2)
        """
        behind = self.inner * prod(shape[self.dim + 1 :])
        after = 1
        for dim in reversed(range(len(wanted))):
            size = wanted[dim]
            if after <= behind < after * size:
                found = Fold(self.examples, dim, behind // after)
                whole = behind % after == 0 and found.holds(wanted)
                return found if whole else None
            after *= size
        return None

    def widened(self, shape: Sequence[int], wanted: Sequence[int]) -> "Fold | None":
        """In a tensor that this one is broadcast to; ``None`` where the batch would be repeated.

        >>> Fold(examples=4).widened((4, 1), (7, 4, 3))
        Fold(examples=4, dim=1, inner=1)
        """
        dim = self.dim + len(wanted) - len(shape)
        if dim < 0 or wanted[dim] != shape[self.dim]:
            return None
        return self._replace(dim=dim)

    def first(self, tensor: Tensor) -> Tensor:
        """A view (examples, …): outer and inner numbers of the dimension stay where it was.

        >>> import torch
        >>> Fold(examples=2, dim=1, inner=3).first(torch.zeros(5, 6, 4)).shape
        torch.Size([2, 5, 3, 4])
        """
        outer = self.outer(tensor.shape)
        if outer == 1 and self.inner == 1:
            found: Tensor = tensor.movedim(self.dim, 0)
            return found
        split: Tensor = tensor.unflatten(self.dim, (outer, self.examples, self.inner))
        split = split.movedim(self.dim + 1, 0)
        if self.inner == 1:
            return split.squeeze(self.dim + 2)
        return split.squeeze(self.dim + 1) if outer == 1 else split

    def size_first(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what :meth:`first` gives."""
        apart = [n for n in (self.outer(shape), self.inner) if n != 1]
        return (self.examples, *shape[: self.dim], *apart, *shape[self.dim + 1 :])

    def rows(self, tensor: Tensor) -> Tensor:
        """As :meth:`first`, with outer and inner numbers as one dimension, there in any case."""
        outer = self.outer(tensor.shape)
        split: Tensor = tensor.unflatten(self.dim, (outer, self.examples, self.inner))
        return split.movedim(self.dim + 1, 0).flatten(self.dim + 1, self.dim + 2)

    def back(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of this shape whose :meth:`rows` these are."""
        split: Tensor = rows.unflatten(self.dim + 1, (self.outer(shape), self.inner))
        return split.movedim(0, self.dim + 1).reshape(tuple(shape))
