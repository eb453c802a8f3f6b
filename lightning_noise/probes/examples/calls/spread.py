"""Tensors that become one of examples because they are repeated for every one of them."""

from collections.abc import Sequence

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold

SPREADING = frozenset({"expand", "expand_as", "broadcast_to", "repeat", "tile"})


def spread_over(examples: int, size: Sequence[int], out: Tensor) -> Fold | None:
    """The one dimension along which a tensor of this size was repeated for all examples.

    ``None``: there is none, or there are several, or more than a single row was repeated.

    >>> import torch
    >>> spread_over(4, (1, 8), torch.zeros(4, 1, 8)), spread_over(4, (1, 8), torch.zeros(4, 4, 8))
    (Fold(examples=4, dim=0, inner=1, owners=None), None)
    """
    before = [*[1] * (out.dim() - len(size)), *size]
    changed = [dim for dim in range(out.dim()) if before[dim] != out.shape[dim]]
    over = [dim for dim in changed if out.shape[dim] == examples]
    if len(over) != 1 or any(before[dim] != 1 for dim in changed):
        return None
    return Fold(examples, over[0])
