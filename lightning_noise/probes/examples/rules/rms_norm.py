"""``nn.RMSNorm`` over any number of trailing dimensions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.probes.examples.contribution import Contribution, Dense, working
from lightning_noise.probes.examples.outer import over_positions


class RMSNormRule:
    """weight: Σ_t g_t ⊙ x̂_t with x̂ the input divided by its root mean square. Exact."""

    parameters = frozenset({"weight"})

    def __call__(self, module: nn.RMSNorm, inputs: tuple[Tensor, ...], grad: Tensor) -> Mapping[str, Contribution]:
        """Contributions from the gradient at the output."""
        (x,), shape = inputs[:1], list(module.normalized_shape)
        eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps

        def weight() -> Tensor:
            return over_positions(functional.rms_norm(working(x), shape, None, eps).mul_(working(grad)), len(shape))

        return {"weight": Dense(weight)}
