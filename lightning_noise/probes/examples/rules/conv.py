"""``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``: stride, every kind of padding, dilation, groups."""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.probes.examples.contribution import Contribution, Dense, Form, NotPerExample, working
from lightning_noise.probes.examples.patches import Geometry, Ints, Patches

Conv: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"


def padding_of(module: Conv) -> tuple[Ints, Ints]:
    """Rows put before and after the input in every dimension; "same" puts the odd one after.

    >>> padding_of(nn.Conv1d(1, 1, 4, padding="same"))
    ((1,), (2,))
    """
    if isinstance(module.padding, str):
        same = module.padding == "same"
        reach = [same * d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach)
    return tuple(module.padding), tuple(module.padding)


class ConvRule:
    """weight: an outer product at every output position; bias: Σ g over space."""

    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})
    lowered = True

    def forms(self, module: Conv) -> Mapping[str, tuple[Form, ...]]:
        """Along the output channels, unless there are so few input channels that spreading back would outgrow the input."""
        kernel = torch.Size(module.kernel_size).numel()
        width = module.in_channels // module.groups
        forms = Form("rows", module.out_channels), Form("cols", module.in_channels * kernel)
        return {"weight": forms if width >= kernel else forms[::-1]}

    def __call__(self, module: Conv, inputs: tuple[Tensor, ...], grad: Tensor) -> Mapping[str, Contribution]:
        """Contributions from the gradient at the output."""
        if grad.dim() != len(module.kernel_size) + 2:
            raise NotPerExample("it was called without a batch dimension")
        parts: dict[str, Contribution] = {"bias": Dense(lambda: working(grad).flatten(2).sum(2))}
        if inputs:
            parts["weight"] = self._weight(module, inputs[0], grad)
        return parts

    def _weight(self, module: Conv, x: Tensor, grad: Tensor) -> Patches:
        before, after = padding_of(module)
        geometry = Geometry(
            tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation), before, after, module.groups
        )
        if module.padding_mode != "zeros":
            x = functional.pad(x, geometry.pads(), mode=module.padding_mode)
            none = (0,) * len(before)
            geometry = geometry._replace(before=none, after=none)
        return Patches(grad, x, geometry)
