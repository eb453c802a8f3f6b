"""Which example each row belongs to, where the batch has chosen the rows."""

from functools import cached_property

import torch
from torch import Tensor


class Owners:
    """The examples of rows that lie in no regular order, as those that experts are given.

    Args:
        of: the example of each row, shape (rows,).
        examples: of the batch.
    """

    def __init__(self, of: Tensor, examples: int) -> None:
        self.of = of
        self.examples = examples

    def __len__(self) -> int:
        return len(self.of)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Owners) or len(self) != len(other):
            return False
        return bool(torch.equal(self.of, other.of))

    def __hash__(self) -> int:
        return hash((len(self), self.examples))

    @cached_property
    def longest(self) -> int:
        """Rows of the example that has most of them, at least one."""
        if not len(self):
            return 1
        return int(torch.bincount(self.of, minlength=self.examples).max())

    @cached_property
    def _slots(self) -> Tensor:
        """The place of each row among those of its example."""
        counts = torch.bincount(self.of, minlength=self.examples)
        starts = counts.cumsum(0) - counts
        order = self.of.argsort(stable=True)
        slots = torch.empty_like(self.of)
        places = torch.arange(len(self), device=self.of.device)
        slots[order] = places - starts[self.of[order]]
        return slots

    def padded(self, rows: Tensor) -> Tensor:
        """(rows, …) as (examples, longest, …), with zeros where an example has fewer rows.

        >>> Owners(torch.tensor([1, 0, 1]), examples=2).padded(torch.tensor([5, 6, 7]))
        tensor([[6, 0],
                [5, 7]])
        """
        found = rows.new_zeros(self.examples, self.longest, *rows.shape[1:])
        found[self.of, self._slots] = rows
        return found

    def unpadded(self, padded: Tensor) -> Tensor:
        """What :meth:`padded` was given."""
        return padded[self.of, self._slots]
