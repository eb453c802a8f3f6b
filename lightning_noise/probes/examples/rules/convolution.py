"""Convolutions in one to three dimensions: stride, every kind of padding, dilation, groups."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lightning_noise.probes.examples.contribution import (
    Contribution,
    Dense,
    Form,
    NotPerExample,
)
from lightning_noise.probes.examples.patches import Geometry, Ints, Patches
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.examples.rule import Operands, Rule


def rows_around(
    padding: str | Ints,
    kernel: Ints,
    dilation: Ints,
) -> tuple[Ints, Ints]:
    """Rows before and after the input in every dimension; "same" puts an odd one after it.

    >>> rows_around("same", kernel=(4,), dilation=(1,)), rows_around((2, 1), (3, 3), (1, 1))
    (((1,), (2,)), ((2, 1), (2, 1)))
    """
    if not isinstance(padding, str):
        return padding, padding
    if padding == "valid":
        none = (0,) * len(kernel)
        return none, none
    before: list[int] = []
    after: list[int] = []
    for spacing, points in zip(dilation, kernel, strict=True):
        reach = spacing * (points - 1)
        before.append(reach // 2)
        after.append(reach - reach // 2)
    return tuple(before), tuple(after)


class ConvolutionRule(Rule):
    """weight: an outer product at every output position; bias: Σ g over space.

    Args:
        stride: one number per spatial dimension.
        padding: rows on both sides of the input, one number per spatial dimension, or "same" or
            "valid".
        dilation: distance between the points of the kernel, one number per spatial dimension.
        groups: number of blocks of channels with separate kernels.
        mode: what the padding is filled with, as ``padding_mode`` of ``nn.Conv2d``.
    """

    op = "convolution"
    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})
    lowered = True

    def __init__(
        self,
        stride: Ints,
        padding: str | Ints,
        dilation: Ints,
        groups: int = 1,
        mode: str = "zeros",
    ) -> None:
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.mode = mode

    def forms(self, name: str, operand: Tensor) -> tuple[Form, ...]:
        """Along the output channels first.

        With so few input channels that spreading back would outgrow the input, it is along the
        other side first.
        """
        if name != "weight":
            return ()
        channels, width, *kernel = operand.shape
        points = torch.Size(kernel).numel()
        rows = Form("rows", channels)
        cols = Form("cols", width * self.groups * points)
        if width >= points:
            return rows, cols
        return cols, rows

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Sums over the output positions."""
        if grad.dim() != len(self.stride) + 2:
            raise NotPerExample("it was called without a batch dimension")
        parts: dict[str, Contribution] = {}
        if "bias" in operands:
            parts["bias"] = Dense(lambda: working(grad).flatten(2).sum(2))
        if "weight" in operands:
            kernel = tuple(operands["weight"].shape[2:])
            parts["weight"] = self._weight(kernel, inputs[0], grad)
        return parts

    def _weight(
        self,
        kernel: Ints,
        x: Tensor,
        grad: Tensor,
    ) -> Patches:
        before, after = rows_around(self.padding, kernel, self.dilation)
        geometry = Geometry(kernel, self.stride, self.dilation, before, after, self.groups)
        if self.mode != "zeros":
            x = functional.pad(x, geometry.pads(), mode=self.mode)
            none = (0,) * len(before)
            geometry = geometry._replace(before=none, after=none)
        return Patches(grad, x, geometry)
