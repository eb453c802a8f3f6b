"""All algebra on rows of moments: tensors of shape (keys, 4), fp64, columns as in ``Moments``.

A probe hands out a partial row, so that the plain sum over the ranks is the row of the step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Q_SMALL, Q_BIG, C_SMALL, C_BIG = range(4)


def step_row(q_small: Tensor, q_big: Tensor, c_small: float, c_big: float) -> Tensor:
    """A row from squared norms by key, shape (keys,), and the effective inverse batch sizes of the
    step.
    """
    row = torch.empty(len(q_small), 4, dtype=torch.float64, device=q_small.device)
    row[:, Q_SMALL], row[:, Q_BIG] = q_small, q_big
    row[:, C_SMALL].fill_(
        c_small
    )  # filled, not copied: a copy from the host would wait for the device
    row[:, C_BIG].fill_(c_big)
    return row


def replicated(row: Tensor, replicas: int) -> Tensor:
    """The part of a step that one of several replicas contributes, from the row of the replica
    alone.

    ``q_big`` must be that of the gradient averaged over the replicas, the same on all of them.

    >>> replicated(torch.tensor([[8.0, 4.0, 1.0, 1.0]]), 2)
    tensor([[4.0000, 2.0000, 0.5000, 0.2500]])
    """
    row = row / replicas
    row[:, C_BIG] /= replicas
    return row


def unscaled(row: Tensor, loss_scale: Tensor | float) -> Tensor:
    """The row as it would be without a factor on the loss; a tensor is not read.

    >>> unscaled(torch.tensor([[8.0, 4.0, 1.0, 0.5]]), 2.0)
    tensor([[2.0000, 1.0000, 1.0000, 0.5000]])
    """
    row = row.clone()
    row[:, :C_SMALL] /= torch.as_tensor(loss_scale, device=row.device).to(row.dtype) ** 2
    return row


def unusable(keys: int, device: torch.device) -> Tensor:
    """What stands in the place of a step that cannot be used: summed over the ranks, it spoils the
    step on all of them.
    """
    return torch.full((keys, 4), torch.nan, dtype=torch.float64, device=device)


def combined(rows: Sequence[Tensor | None]) -> Tensor | None:
    """The row of a step of K micro-batches of equal weight, from what each backward pass gave
    alone.

    Args:
        rows: of every pass, in order, as if its loss had weight 1; ``q_big`` from the gradient
            accumulated so far. ``None`` where a pass cannot be used.

    Returns:
        in units of the accumulated gradient, which is the mean over the groups: each group's
            gradient is K times what its
        pass added. ``None`` where any row is.

    >>> combined([torch.tensor([[4.0, 4.0, 1.0, 1.0]]), torch.tensor([[9.0, 25.0, 1.0, 1.0]])])
    tensor([[26.0000, 25.0000,  1.0000,  0.5000]])
    """
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or not known:
        return None
    count = len(known)
    row = torch.stack(known).sum(dim=0)
    row[:, Q_SMALL] *= count
    row[:, Q_BIG] = known[-1][:, Q_BIG]
    row[:, C_SMALL] /= count
    row[:, C_BIG] /= count**2
    return row
