"""Derived tensors that are put beside the batch: class tokens, rows of padding."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting
from lightning_noise.probes.examples.calls.met_pointwise import check_same_for_all, summed_to
from lightning_noise.probes.examples.calls.operands import derived_among
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.contribution import Contribution, Dense
from lightning_noise.probes.examples.precision import working

Parameters = Mapping[str, Tensor]


class JoinMeeting(Meeting):
    """Tensors one after another: each has its own stretch of the gradient.

    Args:
        dim: of the output, along which they lie.
        starts: of each operand along it.
        new: whether the dimension is none of the operands'.
    """

    op = "cat"

    def __init__(self, *args: Any, dim: int, starts: Mapping[str, int], new: bool) -> None:
        super().__init__(*args)
        self.dim = dim
        self.starts = starts
        self.new = new
        self.without_inputs = frozenset(starts)  # type: ignore[misc]  # a class's own elsewhere

    def arranged(self, grad: Tensor) -> Tensor:
        """Dimensions stay where broadcasting needs them."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The stretches."""
        return {own: self._part(own, grad) for own in self.met}

    def _part(self, own: str, grad: Tensor) -> Dense:
        size, start = self.met[own].tensor.shape, self.starts[own]
        dim = self.dim + 1

        def built() -> Tensor:
            if self.new:
                stretch = working(grad.select(dim, start))
            else:
                stretch = working(grad.narrow(dim, start, size[self.dim]))
            return summed_to(stretch, size)

        return Dense(built)


def joined(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``torch.cat`` along positions or channels, ``torch.stack``."""
    new = seen.name == "stack"
    tensors = seen.argument(0, "tensors")
    dim = seen.argument(1, "dim", seen.kwargs.get("axis", 0)) % len(at.shape)
    starts: dict[str, int] = {}
    given: dict[str, Tensor] = {}
    start = 0
    for n, x in enumerate(tensors):
        if isinstance(seen.fact(x), Derived):
            starts[f"operand {n}"], given[f"operand {n}"] = start, x
        start += 1 if new else x.shape[dim]
    operands = derived_among(seen, given)
    for operand in operands.values():
        size = list(operand.tensor.shape)
        if new:
            size.insert(dim, 1)
        check_same_for_all(torch.Size(size), at.fold, len(at.shape), seen.name)
    return JoinMeeting(operands, (), at, parameters, dim=dim, starts=starts, new=new)


MEETINGS = dict.fromkeys(("cat", "stack"), joined)
