"""Where the gradient at a layer's output can be had, also if it is changed in place afterwards."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Ints = tuple[int, ...]


class View(NamedTuple):
    """How a view lies in its base.

    Args:
        size: of the view.
        stride: of the view.
        offset: of the view's first number from the base's first.
    """

    size: Ints
    stride: Ints
    offset: int


class Layout(NamedTuple):
    """An output, or the tensor that it is a view of.

    Args:
        size: of the tensor whose gradient is taken.
        stride: of that tensor.
        dtype: of both.
        view: the layer's output in it; ``None`` where the tensor is the output.
    """

    size: Ints
    stride: Ints
    dtype: torch.dtype
    view: View | None

    def at_output(self, grad: Tensor) -> Tensor:
        """The gradient at the layer's output, from that at the tensor."""
        if self.view is None:
            return grad
        if grad.stride() != self.stride:
            laid = torch.empty_strided(self.size, self.stride, dtype=grad.dtype, device=grad.device)
            grad = laid.copy_(grad)
        offset = grad.storage_offset() + self.view.offset
        return grad.as_strided(self.view.size, self.view.stride, offset)

    @property
    def output_size(self) -> Ints:
        """Of the layer's output."""
        return self.size if self.view is None else self.view.size


class Source(NamedTuple):
    """The tensor to hook for the gradient at a layer's output, and how the output lies in it."""

    tensor: Tensor
    layout: Layout


def source_of(output: Tensor, inputs: Iterable[Tensor]) -> Source:
    """The base of an output that is a view, else the output itself.

    An operation in place takes a view's node out of the graph, and with it every hook on the view;
    that of the base stays. An input of the layer is no such base: its gradient is that of all its
    other uses too.
    """
    base = output._base
    if base is None or not _stands_for(base, output) or _is_among(base, inputs):
        return Source(output, Layout(tuple(output.size()), output.stride(), output.dtype, None))
    offset = output.storage_offset() - base.storage_offset()
    view = View(tuple(output.size()), output.stride(), int(offset))
    return Source(base, Layout(tuple(base.size()), base.stride(), base.dtype, view))


def _stands_for(base: Tensor, output: Tensor) -> bool:
    """Whether every number of the base is one of the output."""
    return type(base) is Tensor and base.grad_fn is not None and base.numel() == output.numel()


def _is_among(base: Tensor, inputs: Iterable[Tensor]) -> bool:
    return any(x is base or x._base is base for x in inputs)
