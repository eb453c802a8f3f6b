"""All algebra on rows of moments: tensors of shape (keys, 4), fp64, columns as in ``Moments``.

On a device without fp64 they are pairs of fp32 numbers. A probe returns a partial row, so that the
plain sum over the ranks is the row of the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.double_float import DoubleFloat, Wide, wide_sum, wide_zeros

Q_SMALL, Q_BIG, C_SMALL, C_BIG = range(4)


class WeightedGroup(NamedTuple):
    """One group of a step.

    Args:
        size: of the group, in examples.
        weight: by which its loss was multiplied; above 0.
    """

    size: float
    weight: float


def total_weight(groups: Sequence[WeightedGroup]) -> float:
    """The sum of the weights of a rank's groups, which is the same on all ranks."""
    return sum(group.weight for group in groups)


def inverse_effective_size(groups: Sequence[WeightedGroup]) -> float:
    """1 / effective batch size of the mean over a rank's groups.

    >>> inverse_effective_size([WeightedGroup(4, 0.5), WeightedGroup(4, 0.5)])
    0.125
    """
    total = total_weight(groups)
    return sum((weight / total) ** 2 / size for size, weight in groups)


def step_row(
    q_small: Wide,
    q_big: Wide,
    c_small: float,
    c_big: float,
) -> Wide:
    """A row from squared norms by key, shape (keys,), and inverse effective batch sizes."""
    # filled, not copied: a copy from the host would wait for the device
    if isinstance(q_small, Tensor):
        sizes = [torch.full_like(q_small, c_small), torch.full_like(q_small, c_big)]
        return torch.stack([q_small, q_big, *sizes], dim=1)
    row = wide_zeros((len(q_small), 4), q_small.device)
    row[:, Q_SMALL] = q_small
    row[:, Q_BIG] = q_big
    row[:, C_SMALL].fill_(c_small)
    row[:, C_BIG].fill_(c_big)
    return row


def replicated(row: Wide, replicas: int) -> Wide:
    """What one of several replicas contributes to the row of a step, from its own row.

    ``q_big`` must come from the gradient averaged over the replicas, so that all of them have the
    same value.

    >>> replicated(torch.tensor([[8.0, 4.0, 1.0, 1.0]]), 2)
    tensor([[4.0000, 2.0000, 0.5000, 0.2500]])
    """
    if replicas == 1:
        return row
    row = row / replicas
    row[:, C_BIG] /= replicas
    return row


def unscaled(row: Wide, loss_scale: Tensor | float) -> Wide:
    """The row without the factor ``loss_scale`` on the loss.

    A scale that is a tensor stays on its device, without a synchronisation.

    >>> unscaled(torch.tensor([[8.0, 4.0, 1.0, 0.5]]), 2.0)
    tensor([[2.0000, 1.0000, 1.0000, 0.5000]])
    """
    row = row.clone()
    scale = torch.as_tensor(loss_scale, device=row.device)
    if isinstance(row, DoubleFloat):
        row[:, :C_SMALL] = row[:, :C_SMALL].over(scale.float()).over(scale.float())
    else:
        row[:, :C_SMALL] /= scale.to(row.dtype) ** 2
    return row


def unusable(keys: int, device: torch.device) -> Wide:
    """The row of a step that cannot be used: summed over the ranks, it spoils the step on all."""
    return wide_zeros((keys, 4), device).fill_(torch.nan)


def combined(rows: Sequence[Wide | None]) -> Wide | None:
    """The row of a step of K micro-batches of equal weight, from the rows of its backward passes.

    Args:
        rows: one per backward pass, in order, as if its loss had weight 1, with ``q_big`` from the
            gradient accumulated so far. ``None`` stands for a pass that cannot be used.

    Returns:
        The row in units of the accumulated gradient, which is the mean over the groups: the
        gradient of each group is K times what its pass added. ``None`` if any row is.

    >>> combined([torch.tensor([[4.0, 4.0, 1.0, 1.0]]), torch.tensor([[9.0, 25.0, 1.0, 1.0]])])
    tensor([[26.0000, 25.0000,  1.0000,  0.5000]])
    """
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or not known:
        return None
    count = len(known)
    row = wide_sum(known)
    row[:, Q_SMALL] *= count
    row[:, Q_BIG] = known[-1][:, Q_BIG]
    row[:, C_SMALL] /= count
    row[:, C_BIG] /= count**2
    return row
