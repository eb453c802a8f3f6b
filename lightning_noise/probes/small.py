"""Which parameters are small, and how their gradients are joined: one kernel for many of them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import Parameter

SMALL = 2**14  # elements
# Bytes of gradients that are held until the end of a backward pass, at most. On an accelerator a
# kernel is dear to launch, and the memory that the runtime takes is far larger.
HELD_ON_CPU = 2**21
HELD = 2**25
PRECISE = (torch.float32, torch.float64)


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


class SmallParameters:
    """Small parameters, in the order in which their gradients are joined.

    Args:
        parameters: by name.
        cell_of: where the norms of each are summed, by name.

    Attributes:
        names: those of one cell, shape and data type side by side, because stacking them is
            cheapest.
        parameters: in this order.
    """

    def __init__(self, parameters: Mapping[str, Parameter], cell_of: Mapping[str, int]) -> None:
        alike: defaultdict[int, defaultdict[object, list[str]]]
        alike = defaultdict(lambda: defaultdict(list))
        for name, parameter in parameters.items():
            alike[cell_of[name]][parameter.shape, parameter.dtype].append(name)
        self.names: list[str] = []
        self._runs: dict[int, list[slice]] = {}  # the places of what is alike, by cell
        for cell, groups in alike.items():
            runs: list[slice] = []
            for names in groups.values():
                runs.append(slice(len(self.names), len(self.names) + len(names)))
                self.names += names
            self._runs[cell] = runs
        self.parameters = [parameters[name] for name in self.names]

    def gradients(self) -> list[Tensor | None]:
        """``.grad`` of every parameter, in order."""
        return [parameter.grad for parameter in self.parameters]

    def are_precise(self) -> bool:
        """Whether all have single precision or better."""
        return all(parameter.dtype in PRECISE for parameter in self.parameters)

    def joined(self, gradients: Sequence[Tensor | None]) -> Iterator[tuple[int, Tensor]]:
        """The gradients of each cell along one dimension; nothing for a cell without any.

        Args:
            gradients: of the parameters, in order. ``None`` counts as 0, so that the place of a
                gradient does not depend on which others there are.
        """
        for cell, runs in self._runs.items():
            if all(gradient is None for run in runs for gradient in gradients[run]):
                continue
            parts = [flat_stack(self._filled(run, gradients)) for run in runs]
            yield cell, flat_join(parts)

    def _filled(self, run: slice, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        first = self.parameters[run.start]
        found: list[Tensor] = []
        for gradient in gradients[run]:
            if gradient is None:
                gradient = first.new_zeros(()).expand(first.shape)
            found.append(gradient)
        return found


def flat_stack(tensors: Sequence[Tensor]) -> Tensor:
    """The elements of tensors of one shape, along one dimension; sparse ones become dense."""
    with torch.no_grad():
        try:
            joined = torch.stack(list(tensors))
        except (RuntimeError, NotImplementedError):  # sparse ones among others
            joined = torch.stack([tensor.to_dense() for tensor in tensors])
        if joined.layout != torch.strided:
            joined = joined.to_dense()
    return joined.reshape(-1)


def flat_join(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one dimension, one after the other; of several data types, the widest is taken."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts))
