"""``nn.LayerNorm`` over any number of trailing dimensions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.probes.examples.contribution import Contribution, Dense, working
from lightning_noise.probes.examples.outer import over_positions


class LayerNormRule:
    """weight: Σ_t g_t ⊙ x̂_t with x̂ the normalised input; bias: Σ_t g_t. Exact."""

    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})

    def __call__(self, module: nn.LayerNorm, inputs: tuple[Tensor, ...], grad: Tensor) -> Mapping[str, Contribution]:
        """Contributions from the gradient at the output."""
        shape, grad = list(module.normalized_shape), working(grad)

        def weight() -> Tensor:
            ones = torch.ones(shape, dtype=grad.dtype, device=grad.device)  # without a weight torch takes a slower kernel
            normed = functional.layer_norm(working(inputs[0]), shape, ones, None, module.eps)
            return over_positions(normed.mul_(grad), len(shape))

        return {"weight": Dense(weight), "bias": Dense(lambda: over_positions(grad, len(shape)))}
