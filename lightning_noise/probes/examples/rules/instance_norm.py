"""``nn.InstanceNorm1d``, ``nn.InstanceNorm2d`` and ``nn.InstanceNorm3d`` with affine parameters."""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample, working
from lightning_noise.probes.examples.rules.group_norm import over_space

InstanceNorm: TypeAlias = "nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d"
SPACE = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}  # dimensions


def normalised(module: InstanceNorm, x: Tensor) -> Tensor:
    """The normalised input, by running statistics where the layer uses them."""
    if module.training or module.running_mean is None or module.running_var is None:
        return functional.instance_norm(x, eps=module.eps)
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = torch.rsqrt(working(module.running_var) + module.eps)
    return (x - module.running_mean.view(shape)) * scale.view(shape)


class InstanceNormRule:
    """weight: Σ_s g_s ⊙ x̂_s over space, with x̂ the normalised input; bias: Σ_s g_s. Exact."""

    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})

    def __call__(
        self,
        module: InstanceNorm,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Contributions from the gradient at the output."""
        space = next(count for kind, count in SPACE.items() if isinstance(module, kind))
        if grad.dim() != space + 2:
            raise NotPerExample("it was called without a batch dimension")
        grad = working(grad)

        def weight() -> Tensor:
            return over_space(normalised(module, working(inputs[0])) * grad)

        return {"weight": Dense(weight), "bias": Dense(lambda: over_space(grad))}
