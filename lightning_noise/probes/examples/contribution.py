"""What one call adds to the gradient of one parameter for every example; its simplest kind."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.norms import chunk_norms

BUILT_AT_ONCE = 2**22  # elements of per-example gradients


class NotPerExample(Exception):  # noqa: N818  # a finding about the model, not an error
    """The use of a layer shows no per-example gradients; the message is the reason."""


class Form(NamedTuple):
    """How per-example gradients of a parameter are projected: all its uses take the same form.

    Args:
        side: the side of the gradient that the signs run along. The gradient is seen as a matrix:
            its first dimension against all others.
        signs: number of signs per example.
    """

    side: Literal["rows", "cols"]
    signs: int


def slices(examples: int, numbers: int) -> Iterator[slice]:
    """Slices of the examples: ``numbers`` per example take a few megabytes at most per slice."""
    step = max(1, BUILT_AT_ONCE // max(1, numbers))
    for start in range(0, examples, step):
        stop = min(start + step, examples)
        yield slice(start, stop)


class Contribution(ABC):
    """Part of the per-example gradients c_i (i < ``examples``) of one parameter, from one call.

    Only :meth:`build` must be defined. Override the other methods where there is a cheaper way than
    building.

    Attributes:
        examples: B.
        numbers: elements of the parameter.
    """

    examples: int
    numbers: int

    @abstractmethod
    def build(self, rows: slice) -> Tensor:
        """Gradients of the examples in ``rows``, shape (rows, \\*parameter.shape)."""

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """A linear image of every c_i, with first dimension B.

        Its squares sum to Σ |c_i|² in expectation over the signs. Without a form it is the gradient
        itself.
        """
        if form is not None or signs is not None:
            raise NotPerExample(f"its rule offers {form} but gives no sketch")
        return self.build(slice(0, self.examples))

    def exact_is_cheap(self, sketches: int) -> bool:
        """Whether :meth:`norms` costs no more than this number of sketches."""
        return False

    def norms(self) -> list[Tensor]:
        """Exact norms: 1-d tensors whose squares sum to Σ |c_i|²."""
        found: list[Tensor] = []
        for rows in slices(self.examples, self.numbers):
            found += chunk_norms(self.build(rows))
        return found

    def total(self) -> Tensor:
        """Σ c_i: what this call adds to the gradient of the parameter."""
        total = torch.zeros(())
        for rows in slices(self.examples, self.numbers):
            total = total + self.build(rows).sum(0)
        return total


class Dense(Contribution):
    """Per-example gradients as they are, for parameters so small that building them costs nothing.

    Args:
        gradients: shape (B, \\*parameter.shape), or a function without arguments that computes them
            when they are first needed.
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
        """Elements of the parameter."""
        return self.gradients[0].numel()

    def build(self, rows: slice) -> Tensor:
        """A view of the gradients."""
        return self.gradients[rows]

    def exact_is_cheap(self, sketches: int) -> bool:
        """Always true, because the gradients are built already."""
        return True

    def norms(self) -> list[Tensor]:
        """Norms of chunks of the gradients."""
        return chunk_norms(self.gradients)

    def total(self) -> Tensor:
        """The sum of the gradients."""
        return self.gradients.sum(0)
