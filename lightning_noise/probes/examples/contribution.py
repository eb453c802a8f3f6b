"""What one call adds to every example's gradient of one parameter, and the plainest kind of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.norms import chunk_norms

BUILT_AT_ONCE = 2**22  # numbers of per-example gradients


# a finding about the model, not an error of the caller
class NotPerExample(Exception):  # noqa: N818  # a signal, not an error
    """A layer's use does not show per-example gradients; the message is the reason."""


class Form(NamedTuple):
    """How per-example gradients of a parameter are projected; all its uses take the same form.

    Args:
        side: of the gradient seen as a matrix, the first dimension against all others, the side
            that the signs run along.
        signs: how many an example needs.
    """

    side: Literal["rows", "cols"]
    signs: int


def slices(examples: int, numbers: int) -> Iterator[slice]:
    """Runs of examples so short that ``numbers`` for each of them stay below a few megabytes."""
    step = max(1, BUILT_AT_ONCE // max(1, numbers))
    for start in range(0, examples, step):
        yield slice(start, min(start + step, examples))


class Contribution(ABC):
    """Part of the per-example gradients c_i (i < ``examples``) of one parameter, from one call.

    Only :meth:`build` must be given. What is cheaper than building belongs in the others: that is
    what they are for.
    """

    examples: int
    numbers: int  # in the parameter

    @abstractmethod
    def build(self, rows: slice) -> Tensor:
        """Gradients of the examples in ``rows``, shape (rows, \\*parameter.shape)."""

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """A linear image of every c_i, first dimension B.

        Its squares sum to Σ |c_i|² in expectation over the signs. Without a form it is the gradient
        itself.
        """
        if form is not None or signs is not None:
            raise NotPerExample(f"its rule offers {form} but gives no sketch")
        return self.build(slice(0, self.examples))

    def exact_is_cheap(self, sketches: int) -> bool:
        """Whether :meth:`norms` costs no more than so many sketches."""
        return False

    def norms(self) -> list[Tensor]:
        """Exact: 1-d tensors of numbers whose squares sum to Σ |c_i|²."""
        found: list[Tensor] = []
        for rows in slices(self.examples, self.numbers):
            found += chunk_norms(self.build(rows))
        return found

    def total(self) -> Tensor:
        """Σ c_i: what this call adds to the parameter's gradient."""
        total = torch.zeros(())
        for rows in slices(self.examples, self.numbers):
            total = total + self.build(rows).sum(0)
        return total


class Dense(Contribution):
    """Per-example gradients as they are: for parameters so small that building them costs nothing.

    Args:
        gradients: shape (B, \\*parameter.shape), or a function without arguments that computes them
            when first needed.
    """

    def __init__(self, gradients: Tensor | Callable[[], Tensor]) -> None:
        self._gradients = gradients

    @property
    def gradients(self) -> Tensor:
        """Shape (B, \\*parameter.shape)."""
        if not isinstance(self._gradients, Tensor):
            self._gradients = self._gradients()
        return self._gradients

    @property
    def examples(self) -> int:  # type: ignore[override]  # a field there
        """B."""
        return len(self.gradients)

    @property
    def numbers(self) -> int:  # type: ignore[override]  # a field there
        """Of the parameter."""
        return self.gradients[0].numel()

    def build(self, rows: slice) -> Tensor:
        """A view."""
        return self.gradients[rows]

    def exact_is_cheap(self, sketches: int) -> bool:
        """Always: they are built already."""
        return True

    def norms(self) -> list[Tensor]:
        """Norms of chunks."""
        return chunk_norms(self.gradients)

    def total(self) -> Tensor:
        """Their sum."""
        return self.gradients.sum(0)
