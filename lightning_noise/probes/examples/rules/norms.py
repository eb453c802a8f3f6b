"""Normalisations: x̂ ⊙ weight + bias, where x̂ depends on no parameter and no other example."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lightning_noise.probes.examples.contribution import (
    Contribution,
    Dense,
    NotPerExample,
)
from lightning_noise.probes.examples.outer import over_positions
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.examples.rule import Operands, Rule


class NormRule(Rule):
    """weight: the sum of g ⊙ x̂ over all places with the same weights; bias: that of g. Exact."""

    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})

    @abstractmethod
    def normed(self, x: Tensor, shape: torch.Size) -> Tensor:
        """x̂ in the working precision, for a weight of ``shape``. The caller may change it."""

    def over_places(self, products: Tensor, shape: torch.Size) -> Tensor:
        """The sum over all places with the same weights, shape (B, \\*shape)."""
        return over_positions(products, len(shape))

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Sums over places, computed when they are needed."""
        grad = working(grad)
        parts: dict[str, Contribution] = {}
        if "weight" in operands:
            parts["weight"] = self._weight(inputs[0], grad, operands["weight"].shape)
        if "bias" in operands:
            shape = operands["bias"].shape
            parts["bias"] = Dense(lambda: self.over_places(grad, shape))
        return parts

    def _weight(
        self,
        x: Tensor,
        grad: Tensor,
        shape: torch.Size,
    ) -> Dense:
        return Dense(lambda: self.over_places(self.normed(x, shape).mul_(grad), shape))


class LayerNormRule(NormRule):
    """Normalisation over the trailing dimensions, those of the weight.

    Args:
        eps: added to the variance.
    """

    op = "layer normalisation"
    positions_first = True

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def kind(self) -> Hashable:
        """Of one epsilon; a subclass may differ."""
        return (LayerNormRule, self.eps) if type(self) is LayerNormRule else None

    def normed(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Centred, and divided by the standard deviation."""
        x = working(x)
        # without a weight torch takes a slower kernel
        ones = torch.ones(shape, dtype=x.dtype, device=x.device)
        return functional.layer_norm(x, list(shape), ones, None, self.eps)


class RMSNormRule(NormRule):
    """Normalisation over the trailing dimensions, those of the weight. There is no bias.

    Args:
        eps: added to the mean square; ``None`` for the epsilon of the input's dtype.
    """

    op = "root mean square normalisation"
    parameters = frozenset({"weight"})
    without_inputs = frozenset()
    positions_first = True

    def __init__(self, eps: float | None) -> None:
        self.eps = eps

    def normed(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Divided by the root mean square."""
        eps = self.eps
        if eps is None:
            eps = torch.finfo(x.dtype).eps
        return functional.rms_norm(working(x), list(shape), None, eps)


class ChannelNormRule(NormRule):
    """Normalisation with one weight per channel, along dimension 1."""

    def over_places(self, products: Tensor, shape: torch.Size) -> Tensor:
        """(B, C, \\*space) summed to (B, C)."""
        if products.dim() <= 2:
            return products
        return products.flatten(2).sum(2)


class GroupNormRule(ChannelNormRule):
    """Normalisation over groups of channels and space.

    Args:
        groups: number of groups of channels.
        eps: added to the variance.
    """

    op = "group normalisation"

    def __init__(self, groups: int, eps: float) -> None:
        self.groups = groups
        self.eps = eps

    def normed(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Centred, and divided by the standard deviation."""
        return functional.group_norm(working(x), self.groups, eps=self.eps)


class InstanceNormRule(ChannelNormRule):
    """Normalisation over space only.

    Args:
        space: number of spatial dimensions.
        eps: added to the variance.
        running: running mean and variance, if the operation uses them.
    """

    op = "instance normalisation"

    def __init__(
        self,
        space: int,
        eps: float,
        running: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.space = space
        self.eps = eps
        self.running = running

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Sums over space, computed when they are needed."""
        if grad.dim() != self.space + 2:
            raise NotPerExample("it was called without a batch dimension")
        return super().contributions(operands, inputs, grad)

    def normed(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Normalised by the statistics of each channel, or by the running statistics."""
        x = working(x)
        if self.running is None:
            return functional.instance_norm(x, eps=self.eps)
        mean, variance = self.running
        ones = [1] * self.space
        per_channel = (1, -1, *ones)
        scale = torch.rsqrt(working(variance) + self.eps)
        centred = x - mean.view(per_channel)
        return centred * scale.view(per_channel)
