"""Sums over the ranks of torch.distributed."""

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_noise.probes.setup import Reduce


def sum_over_ranks(table: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place: one collective (Lightning's ``strategy.reduce`` adds
    a barrier).
    """
    dist.all_reduce(table)
    return table


def greatest_over_ranks(value: int, device: torch.device) -> int:
    """The greatest of the ranks' values, on all ranks: one collective; ``value`` itself where there
    is one rank.
    """
    if not dist.is_available() or not dist.is_initialized():
        return value
    table = torch.tensor(value, device=device)
    dist.all_reduce(table, op=dist.ReduceOp.MAX)
    return int(table)


def reduction_over(ranks: int) -> Reduce | None:
    """:func:`sum_over_ranks`, or ``None`` where there is one rank."""
    if ranks == 1:
        return None
    return sum_over_ranks
