"""Moments of a step whose groups are single examples."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pass(NamedTuple):
    """One micro-batch as the host announced it.

    Args:
        examples: B_k, seen by the layers.
        size: what the host counts, mostly the same number.
        weight: v_k on its loss.
    """

    examples: int
    size: float
    weight: float


def example_row(squares: Sequence[Tensor], big: Tensor, passes: Sequence[Pass]) -> Tensor:
    """Moments by key from the contributions c_i that the examples made to the step's gradient.

    The share of an example is that of its micro-batch's weight, split evenly inside: p_i = v_k / (B_k Σ v). For micro-batches
    of one size that is 1/N. It says nothing of the tokens of an example: how much it adds beyond its share is its own doing.
    Where the host counts something else than examples (tokens), an example is a group of mean size b_k = size_k / B_k.

    Args:
        squares: Σ_i |c_i|² by key of every micro-batch, fp64 of shape (keys,), the losses multiplied by v_k.
        big: |Σ c_i|² by key, shape (keys,), fp64.
        passes: the micro-batches; weights above 0.

    Returns:
        fp64 of shape (keys, 4).
    """
    total = sum(one.weight for one in passes)
    row = torch.zeros(len(big), 4, dtype=torch.float64, device=big.device)
    for square, one in zip(squares, passes, strict=True):
        row[:, 0] += square * (one.examples / one.weight / total)
    row[:, 1] = big / total**2
    row[:, 2].fill_(sum(one.weight / total * one.examples / one.size for one in passes))
    row[:, 3].fill_(sum((one.weight / total) ** 2 / one.size for one in passes))
    return row
