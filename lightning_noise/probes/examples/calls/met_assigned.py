"""Derived tensors that are assigned to a part of the batch: mask tokens, class tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.assigned import Assigned
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting
from lightning_noise.probes.examples.calls.met_pointwise import part_of_sum
from lightning_noise.probes.examples.calls.operands import derived_among
from lightning_noise.probes.examples.calls.seen import Seen, filled, tensors_in, with_holes
from lightning_noise.probes.examples.contribution import Contribution, NotPerExample
from lightning_noise.probes.examples.precision import working

Parameters = Mapping[str, Tensor]


class AssignedMeeting(Meeting):
    """``target[index] = value``: the value has the gradient of the part.

    Args:
        index: with holes in place of tensors.
        part: where the examples lie in the part.
    """

    op = "assignment"

    def __init__(self, *args: Any, index: Any, part: Arrangement) -> None:
        super().__init__(*args)
        self.index = index
        self.part = part

    def arranged(self, grad: Tensor) -> Tensor:
        """Dimensions stay where they are in the target."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The gradient of the part, summed over what the value is repeated along."""
        whole = self.at.fold.back(grad, self.at.shape)
        picked = working(whole[filled(self.index, inputs)])
        size = self.met["value"].tensor.shape
        return {"value": part_of_sum(picked, size, self.part)}


def assigned(seen: Seen, target: Fold, parameters: Parameters) -> Meeting:
    """``target[index] = value`` with a derived value.

    Args:
        seen: the call.
        target: where the examples lie in the target.
        parameters: all watched ones, by name.

    Raises:
        NotPerExample: the examples are not apart in the part.
    """
    call = Assigned(seen)
    fold = call.fold_of(target)
    if fold is None:
        raise NotPerExample("it is assigned to a part of a tensor in which examples are not apart")
    tensors = tuple(tensors_in(call.index))
    return AssignedMeeting(
        derived_among(seen, {"value": call.value}),
        tensors,
        Arrangement(target, torch.Size(call.target.shape)),
        parameters,
        index=with_holes(call.index, tensors),
        part=Arrangement(fold, call.picked),
    )
