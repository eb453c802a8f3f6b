"""Which parameters are small, and how their gradients are joined: one kernel for many of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import Parameter

SMALL = 2**14  # elements
# Bytes of gradients that are held until the end of a backward pass, at most. On an accelerator a
# kernel is dear to launch, and the memory that the runtime takes is far larger.
HELD_ON_CPU = 2**21
HELD = 2**25


def bytes_held(device: torch.device) -> int:
    """How many bytes of small tensors may be held until the end of a backward pass."""
    return HELD_ON_CPU if device.type == "cpu" else HELD


def small_parameters(
    parameters: Mapping[str, Parameter],
    device: torch.device,
) -> dict[str, Parameter]:
    """Parameters with small gradients on ``device``, the smallest first.

    Together they have no more bytes than may be held. A subclass of ``Parameter`` (a shard) has
    gradients that only its own operations can join.
    """
    found: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        is_plain = type(parameter) is Parameter and parameter.layout == torch.strided
        if not is_plain or not parameter.is_floating_point() or parameter.device != device:
            continue
        if 0 < parameter.numel() <= SMALL:
            found[name] = parameter
    smallest_first = sorted(found, key=lambda name: found[name].numel())
    sizes = [found[name].numel() * found[name].element_size() for name in smallest_first]
    room = bytes_held(device)
    fitting = sum(total <= room for total in accumulate(sizes))
    return {name: found[name] for name in smallest_first[:fitting]}


def group_by_shape(
    parameters: Mapping[str, Parameter],
    cell_of: Mapping[str, int],
) -> dict[int, list[list[str]]]:
    """Names of parameters of one shape and data type, by cell: stacking these is cheapest."""
    groups: defaultdict[int, defaultdict[object, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for name, parameter in parameters.items():
        kind = (parameter.shape, parameter.dtype)
        groups[cell_of[name]][kind].append(name)
    return {cell: list(by_kind.values()) for cell, by_kind in groups.items()}


def flat_stack(tensors: Sequence[Tensor]) -> Tensor:
    """The elements of tensors of one shape, along one dimension."""
    if len(tensors) == 1:
        return tensors[0].detach().reshape(-1)
    with torch.no_grad():
        return torch.stack(list(tensors)).reshape(-1)


def flat_join(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one dimension, one after the other; of several data types, the widest is taken."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts))
