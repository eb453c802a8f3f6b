"""Transposed convolutions: their weight's gradient is that of a convolution, sides exchanged."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_noise.probes.examples.contribution import (
    Contribution,
    Dense,
    Form,
    NotPerExample,
)
from lightning_noise.probes.examples.patches import Geometry, Ints, Patches
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.examples.rule import Operands, Rule


class TransposedConvolutionRule(Rule):
    """weight: an outer product at every input position; bias: Σ g over space.

    The output's gradient, convolved with the weight, is the gradient at the input. So the weight
    sees that gradient where the weight of a convolution sees its input.

    Args:
        stride: one number per spatial dimension, as everything below.
        padding: rows that are cut off on both sides of the output.
        dilation: distance of the kernel's points.
        groups: blocks of channels with kernels of their own.
    """

    op = "transposed convolution"
    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})
    lowered = True

    def __init__(self, stride: Ints, padding: Ints, dilation: Ints, groups: int = 1) -> None:
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

    def forms(self, name: str, operand: Tensor) -> tuple[Form, ...]:
        """Along the input channels, or along all others."""
        if name != "weight":
            return ()
        channels, width, *kernel = operand.shape
        numbers = torch.Size(kernel).numel()
        rows, cols = Form("rows", channels), Form("cols", width * self.groups * numbers)
        return (rows, cols) if width >= numbers else (cols, rows)

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Sums over the input positions."""
        if grad.dim() != len(self.stride) + 2:
            raise NotPerExample("it was called without a batch dimension")
        parts: dict[str, Contribution] = {}
        if "bias" in operands:
            parts["bias"] = Dense(lambda: working(grad).flatten(2).sum(2))
        if "weight" in operands:
            kernel = tuple(operands["weight"].shape[2:])
            geometry = Geometry(
                kernel,
                self.stride,
                self.dilation,
                self.padding,
                self.padding,
                self.groups,
            )
            parts["weight"] = Patches(inputs[0], grad, geometry)
        return parts
