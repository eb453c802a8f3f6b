"""Where the examples of a batch lie in a tensor, and how reshaping moves them."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.owners import Owners


class Fold(NamedTuple):
    """The dimension that holds the examples, alone or folded with others.

    The index along ``dim`` is (o · examples + example) · inner + i: of (batch · heads) the heads
    are the inner ones, of (time · batch) the times the outer ones. With ``owners`` it is
    row · inner + i, and they know the example of each row.

    Args:
        examples: of the batch.
        dim: counted from the front.
        inner: numbers of the index that belong to one example and lie together.
        owners: of rows that the batch has chosen; ``None`` where the order is regular.
    """

    examples: int
    dim: int = 0
    inner: int = 1
    owners: Owners | None = None

    @classmethod
    def of_owners(cls, owners: Tensor, examples: int, dim: int) -> "Fold":
        """By the example of each index along a dimension; in the regular form where it has one.

        >>> Fold.of_owners(torch.tensor([0, 0, 1, 1]), examples=2, dim=0)
        Fold(examples=2, dim=0, inner=2, owners=None)
        """
        size = len(owners)
        if size and size % examples == 0:
            for inner in {size // examples, 1}:
                regular = cls(examples, dim, inner)
                if torch.equal(regular.owner_of(size, owners.device), owners):
                    return regular
        return cls(examples, dim, 1, Owners(owners, examples))

    def owner_of(self, size: int, device: torch.device) -> Tensor:
        """The example of each index along the dimension, of this size."""
        if self.owners is not None:
            return self.owners.of.repeat_interleave(self.inner)
        return torch.arange(size, device=device) // self.inner % self.examples

    def outer(self, shape: Sequence[int]) -> int:
        """How many times the batch comes along the dimension."""
        if self.owners is not None:
            return 1
        return shape[self.dim] // (self.examples * self.inner)

    def apart(self, shape: Sequence[int]) -> int:
        """The size of the dimension in :meth:`rows`, beside the examples."""
        if self.owners is not None:
            return self.owners.longest * self.inner
        return self.outer(shape) * self.inner

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape can be folded so."""
        if not 0 <= self.dim < len(shape):
            return False
        size = shape[self.dim]
        if self.owners is not None:
            return size == len(self.owners) * self.inner
        return size > 0 and size % (self.examples * self.inner) == 0

    def refolded(self, shape: Sequence[int], wanted: Sequence[int]) -> "Fold | None":
        """After a reshape; ``None`` where it tears examples apart.

        A reshape keeps the numbers in order, so each example keeps as many numbers after it.

        >>> Fold(examples=4).refolded((4, 6, 8), (24, 8))
        Fold(examples=4, dim=0, inner=6, owners=None)
        >>> Fold(examples=4, dim=1).refolded((6, 4, 8), (24, 8))
        Fold(examples=4, dim=0, inner=1, owners=None)
        >>> Fold(examples=4, dim=1).refolded((6, 4, 8), (6, 8, 4))
        Fold(examples=4, dim=1, inner=2, owners=None)
        """
        if self.owners is not None and len(self.owners) < 2:
            return self._refolded_row(shape, wanted)
        behind = self.inner * prod(shape[self.dim + 1 :])
        after = 1
        for dim in reversed(range(len(wanted))):
            size = wanted[dim]
            if after <= behind < after * size:
                found = self._replace(dim=dim, inner=behind // after)
                whole = behind % after == 0 and found.holds(wanted)
                return found if whole else None
            after *= size
        return None

    def _refolded_row(self, shape: Sequence[int], wanted: Sequence[int]) -> "Fold | None":
        """Of a single row, or none: the dimension of that size that lies nearest."""
        size = shape[self.dim]
        behind = prod(shape[self.dim + 1 :])
        places: list[int] = []
        for dim, length in enumerate(wanted):
            if length == size and prod(wanted[dim + 1 :]) == behind:
                places.append(dim)
        if not places:
            return None
        return self._replace(dim=min(places, key=lambda dim: abs(dim - self.dim)))

    def widened(self, shape: Sequence[int], wanted: Sequence[int]) -> "Fold | None":
        """In a tensor that this one is broadcast to; ``None`` where the batch would be repeated.

        >>> Fold(examples=4).widened((4, 1), (7, 4, 3))
        Fold(examples=4, dim=1, inner=1, owners=None)
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
        if self.owners is not None:
            return self.rows(tensor)
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
        """The shape of what :meth:`first` gives; that of a copy does not matter."""
        if self.owners is not None:
            return ()
        apart = [n for n in (self.outer(shape), self.inner) if n != 1]
        return (self.examples, *shape[: self.dim], *apart, *shape[self.dim + 1 :])

    def rows(self, tensor: Tensor) -> Tensor:
        """As :meth:`first`, with outer and inner numbers as one dimension, there in any case."""
        if self.owners is not None:
            by_row: Tensor = tensor.unflatten(self.dim, (len(self.owners), self.inner))
            by_example = self.owners.padded(by_row.movedim(self.dim, 0))
            return by_example.movedim(1, self.dim + 1).flatten(self.dim + 1, self.dim + 2)
        outer = self.outer(tensor.shape)
        split: Tensor = tensor.unflatten(self.dim, (outer, self.examples, self.inner))
        return split.movedim(self.dim + 1, 0).flatten(self.dim + 1, self.dim + 2)

    def back(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of this shape whose :meth:`rows` these are."""
        if self.owners is not None:
            padded = rows.unflatten(self.dim + 1, (self.owners.longest, self.inner))
            by_row = self.owners.unpadded(padded.movedim(self.dim + 1, 1))
            return by_row.movedim(0, self.dim).reshape(tuple(shape))
        split: Tensor = rows.unflatten(self.dim + 1, (self.outer(shape), self.inner))
        return split.movedim(0, self.dim + 1).reshape(tuple(shape))
