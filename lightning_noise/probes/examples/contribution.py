"""What one call of a layer adds to every example's gradient of one parameter, and the plainest kind of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.norms import chunk_norms

HALF = frozenset({torch.float16, torch.bfloat16})
SUMS_HALF_IN_FLOAT = {"cuda"}  # devices
CHUNK = 2**22  # numbers of per-example gradients that are built at a time


class NotPerExample(Exception):  # noqa: N818  # a finding about the model, not an error of the caller
    """A layer was used in a way from which its per-example gradients cannot be told; the message is the reason."""


class Form(NamedTuple):
    """How per-example gradients of a parameter are projected: all uses of a parameter must take the same form.

    Args:
        side: of the gradient seen as a matrix, the first dimension against all others, the side that the signs run along.
        signs: how many an example needs.
    """

    side: Literal["rows", "cols"]
    signs: int


def working(tensor: Tensor) -> Tensor:
    """The tensor in the precision in which products are taken: fp64 stays, everything else is fp32."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def factors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in one precision for large products: their own where half precision is summed in fp32, else the working one."""
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) == 1 and kinds <= HALF and tensors[0].device.type in SUMS_HALF_IN_FLOAT:
        return tensors
    return tuple(working(tensor) for tensor in tensors)


def shrinkage(form: Form, factor: Tensor) -> float:
    """A power of two for the signs, so that in half precision a sketch is no larger than the gradient that it stands for."""
    return 2.0 ** -round(math.log2(form.signs) / 2) if factor.dtype in HALF else 1.0


def row_norms(matrix: Tensor) -> Tensor:
    """Norms of the rows, summed in fp32 at least."""
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.promote_types(matrix.dtype, torch.float32))
    return norms


def slices(examples: int, numbers: int) -> Iterator[slice]:
    """Runs of examples short enough that ``numbers`` for each of them stay below a few megabytes."""
    step = max(1, CHUNK // max(1, numbers))
    for start in range(0, examples, step):
        yield slice(start, min(start + step, examples))


class Contribution(ABC):
    """Part of the per-example gradients c_i (i < ``examples``) of one parameter, from one call of a layer.

    Only :meth:`build` must be given. What is cheaper than building belongs in the others: that is what they are for.
    """

    examples: int
    numbers: int  # in the parameter

    @abstractmethod
    def build(self, rows: slice) -> Tensor:
        """Gradients of the examples in ``rows``, shape (rows, \\*parameter.shape)."""

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """A linear image of every c_i, first dimension B, whose squares sum to Σ |c_i|² in expectation over the signs.

        Without a form it is the gradient itself.
        """
        if form is not None or signs is not None:
            raise NotPerExample(f"its rule offers {form} but gives no sketch")
        return self.build(slice(0, self.examples))

    def exact_is_cheap(self, sketches: int) -> bool:
        """Whether :meth:`norms` costs no more than so many sketches."""
        return False

    def norms(self) -> list[Tensor]:
        """Exact: 1-d tensors of numbers whose squares sum to Σ |c_i|²."""
        return [norm for rows in slices(self.examples, self.numbers) for norm in chunk_norms(self.build(rows))]

    def total(self) -> Tensor:
        """Σ c_i: what this call adds to the parameter's gradient."""
        return sum((self.build(rows).sum(0) for rows in slices(self.examples, self.numbers)), torch.zeros(()))


class Dense(Contribution):
    """Per-example gradients as they are: for parameters so small that building them costs nothing.

    Args:
        gradients: shape (B, \\*parameter.shape), or a function without arguments that computes them when first needed.
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
    def examples(self) -> int:  # type: ignore[override]
        """B."""
        return len(self.gradients)

    @property
    def numbers(self) -> int:  # type: ignore[override]
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
