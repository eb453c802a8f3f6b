"""Products of rows with the matrices of experts, one group of rows after the other."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.blocks import Blocks
from lightning_noise.probes.examples.calls.derived import Derived, Origin, Place
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting, Operand
from lightning_noise.probes.examples.calls.operands import batch_of, derived_among
from lightning_noise.probes.examples.calls.owners import Owners
from lightning_noise.probes.examples.calls.placed import Sides
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.contribution import Contribution, NotPerExample

Parameters = Mapping[str, Tensor]


def grouped_layout(seen: Seen, out: Tensor) -> Fold | None:
    """Rows stay in their places."""
    x = seen.args[0]
    fold = seen.fact(x)
    if not isinstance(fold, Fold) or fold.dim != 0 or x.dim() != 2 or out.dim() != 2:
        return None
    return fold


class GroupedMeeting(Meeting):
    """Rows x of group e, times matrix e. The second input holds where each group ends.

    Args:
        of_input: where the examples lie in the rows.
        transposed: whether the operand holds the matrices as their transposes.
    """

    op = "grouped_mm"

    def __init__(self, *args: Any, of_input: Fold, transposed: bool) -> None:
        super().__init__(*args)
        self.of_input = of_input
        self.transposed = transposed

    def sides(self, own: str) -> Sides | None:
        """The matrices of all experts, one below the other."""
        shape = self.met[own].tensor.shape
        return shape[:-1].numel(), shape[-1]

    def arranged(self, grad: Tensor) -> Tensor:
        """As it lies in the output."""
        return self.at.fold.back(self.at.rows(grad), self.at.shape)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """Outer products of the rows of every example in every group."""
        x, ends = inputs
        experts = len(ends)
        places = torch.arange(len(x), device=x.device)
        group = torch.searchsorted(ends.to(places.dtype), places, right=True)
        is_used = group < experts  # rows behind the last group belong to no expert
        owners = self.of_input.owner_of(len(x), x.device)
        both = owners * experts + group
        cells = Owners(both[is_used], self.of_input.examples * experts)
        size = (self.of_input.examples, experts)
        near = cells.padded(x[is_used]).unflatten(0, size)
        far = cells.padded(grad[is_used]).unflatten(0, size)
        if self.transposed:
            return {"matrix": Blocks(far, near)}
        return {"matrix": Blocks(near, far)}


def grouped_product(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.grouped_mm(rows, matrices, offs=ends)``."""
    x, matrices = seen.args[0], seen.args[1]
    ends = seen.argument(2, "offs")
    if matrices.dim() != 3 or ends is None:
        raise NotPerExample("grouped_mm was called without ends of groups")
    operands = derived_among(seen, {"matrix": matrices})
    operand = operands.get("matrix")
    if operand is None:
        raise NotPerExample("an argument of grouped_mm that has no rule")
    transposed = matrices.stride(-1) != 1
    if transposed:
        operands["matrix"] = _transposed(operand)
    of_input = batch_of(seen, x)
    return GroupedMeeting(
        operands, (x, ends), at, parameters, of_input=of_input, transposed=transposed
    )


def _transposed(operand: Operand) -> Operand:
    """The matrices as they lie in memory, so that they are rows of the parameter."""
    tensor, derived = operand.tensor.mT, operand.derived
    place = derived.place
    if place is not None:
        place = Place(tuple(tensor.shape), tensor.stride(), place.offset)
    origin = Origin(torch.transpose, (derived, -2, -1), {})
    return Operand(tensor, Derived(tuple(tensor.shape), derived.leaves, origin, place))


NAMES = ("grouped_mm", "grouped_mm_fallback")
LAYOUTS = dict.fromkeys(NAMES, grouped_layout)
MEETINGS = dict.fromkeys(NAMES, grouped_product)
