"""Gradients of examples that consist of several rows, as frames or windows."""

from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.directions import Signs


class Grouped(Contribution):
    """c_i is the sum of the gradients of its rows.

    Args:
        part: gradients of all rows, those of one example one after another.
        each: rows of an example.
    """

    def __init__(self, part: Contribution, each: int) -> None:
        self.part = part
        self.each = each
        self.examples = part.examples // each
        self.numbers = part.numbers * each  # that are built for an example

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """The signs of an example are those of all its rows."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        found = self.part.sketch(
            form, Signs(signs.packed.repeat_interleave(self.each, 0), signs.size)
        )
        by_example: Tensor = found.unflatten(0, (self.examples, self.each, -1))
        return by_example.sum(1).flatten(0, 1)

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, \\*parameter.shape)."""
        start, stop, _ = rows.indices(self.examples)
        built = self.part.build(slice(start * self.each, stop * self.each))
        by_example: Tensor = built.unflatten(0, (stop - start, self.each))
        return by_example.sum(1)

    def total(self) -> Tensor:
        """Of all rows."""
        return self.part.total()
