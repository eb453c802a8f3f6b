"""What should be measured: gradients of the groups of a batch by a loop of plain backward()."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.right.zoo.entry import Batch, Trained, cast, rows

Gradients = dict[str, Tensor]
ADDS_UP = 1e-4  # of the batch's gradient: what the mean over the examples may differ by


class Oracle(NamedTuple):
    """Squared norms of every parameter's gradient, from groups of equal size.

    Args:
        small: mean over the groups, by the name of the parameter.
        big: of the mean over the groups.
        gap: norm of the difference between the mean over the groups and the gradient of the batch,
            relative to the latter.
    """

    small: dict[str, float]
    big: dict[str, float]
    gap: float

    @property
    def adds_up(self) -> bool:
        """Whether the loss is a mean over the groups, without which a loop over them says nothing
        about a part of the batch.
        """
        return self.gap < ADDS_UP

    def q_small(self, names: Iterable[str]) -> float:
        """Mean squared norm of a group's gradient in these parameters."""
        return sum(self.small[name] for name in names)

    def q_big(self, names: Iterable[str]) -> float:
        """Squared norm of the mean gradient in these parameters."""
        return sum(self.big[name] for name in names)

    def share(self, names: Iterable[str]) -> float:
        """Share of these parameters in the squared norm of the mean gradient."""
        return self.q_big(names) / sum(self.big.values())


def gradients(module: Trained, batch: Batch) -> Gradients:
    """Of every trainable parameter, in fp64; zeros where none arrives."""
    module.zero_grad(set_to_none=True)
    module.loss(batch).backward()
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = grad.to_dense().double()
    return found


def squares(grads: Gradients) -> dict[str, float]:
    """Squared norm of every gradient."""
    return {name: float(grad.square().sum()) for name, grad in grads.items()}


def minus(one: Gradients, other: Gradients) -> Gradients:
    """The difference, parameter by parameter."""
    return {name: grad - other[name] for name, grad in one.items()}


def of_groups(module: Trained, groups: Sequence[Batch], batch: Batch) -> Oracle:
    """One backward pass per group, and one over the batch."""
    mean: Gradients = {}
    small: dict[str, float] = {}
    for group in groups:
        found = gradients(module, group)
        for name, square in squares(found).items():
            small[name] = small.get(name, 0.0) + square / len(groups)
            part = found[name] / len(groups)
            mean[name] = mean[name] + part if name in mean else part
    whole = gradients(module, batch)
    off = sum(squares(minus(mean, whole)).values()) / sum(squares(whole).values())
    return Oracle(small, squares(mean), off**0.5)


def of_examples(module: Trained, batch: Batch, dtype: torch.dtype = torch.float32) -> Oracle:
    """One backward pass per example."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as Lightning does where it trains in fp64
    try:
        batch = cast(batch, dtype)
        singles = [rows(batch, i, i + 1) for i in range(len(batch[0]))]
        return of_groups(module.to(dtype), singles, batch)
    finally:
        torch.set_default_dtype(before)


def of_halves(module: Trained, batch: Batch) -> Oracle:
    """One backward pass per half of the batch."""
    return of_groups(module, halves(batch), batch)


def halves(batch: Batch) -> list[Batch]:
    """Both micro-batches."""
    middle = len(batch[0]) // 2
    return [rows(batch, 0, middle), rows(batch, middle, 2 * middle)]
