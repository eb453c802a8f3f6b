"""Where to take the gradient at a layer's output, also if it is changed in place afterwards."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold

Ints = tuple[int, ...]


class View(NamedTuple):
    """How a view lies in its base.

    Args:
        size: of the view.
        stride: of the view.
        offset: of the view's first element from the base's first.
    """

    size: Ints
    stride: Ints
    offset: int


class Layout(NamedTuple):
    """How an output lies in the tensor whose gradient is taken: itself, or the base of a view.

    Args:
        size: of the tensor.
        stride: of the tensor.
        dtype: of the tensor and the output.
        view: the output in the tensor; ``None`` where the tensor is the output.
        fold: where the examples lie in the output; ``None``: along dimension 0.
    """

    size: Ints
    stride: Ints
    dtype: torch.dtype
    view: View | None
    fold: Fold | None = None

    def at_output(self, grad: Tensor) -> Tensor:
        """The gradient at the layer's output, from that at the tensor; examples come first."""
        found = self._unarranged(grad)
        return found if self.fold is None else self.fold.first(found)

    def _unarranged(self, grad: Tensor) -> Tensor:
        if self.view is None:
            return grad
        if grad.stride() != self.stride:
            like_base = torch.empty_strided(
                self.size, self.stride, dtype=grad.dtype, device=grad.device
            )
            grad = like_base.copy_(grad)
        offset = grad.storage_offset() + self.view.offset
        return grad.as_strided(self.view.size, self.view.stride, offset)

    @property
    def output_size(self) -> Ints:
        """The size of the layer's output, examples first."""
        size = self.size
        if self.view is not None:
            size = self.view.size
        if self.fold is not None:
            size = self.fold.size_first(size)
        return size


class Source(NamedTuple):
    """The tensor to hook for the gradient at a layer's output, and how the output lies in it."""

    tensor: Tensor
    layout: Layout


def source_of(output: Tensor, inputs: Iterable[Tensor]) -> Source:
    """The base of an output that is a view, else the output itself.

    An operation in place takes the node of a view out of the graph, and every hook on the view with
    it. The node of the base stays. If the base is an input of the layer, it cannot be used: its
    gradient includes its other uses.
    """
    size = tuple(output.size())
    base = output._base
    if base is None or not _stands_for(base, output) or _is_among(base, inputs):
        layout = Layout(size, output.stride(), output.dtype, None)
        return Source(output, layout)
    offset = output.storage_offset() - base.storage_offset()
    view = View(size, output.stride(), int(offset))
    layout = Layout(tuple(base.size()), base.stride(), base.dtype, view)
    return Source(base, layout)


def _stands_for(base: Tensor, output: Tensor) -> bool:
    """Whether every element of the base is one of the output."""
    if type(base) is not Tensor or base.grad_fn is None:
        return False
    return base.numel() == output.numel()


def _is_among(base: Tensor, inputs: Iterable[Tensor]) -> bool:
    return any(x is base or x._base is base for x in inputs)
