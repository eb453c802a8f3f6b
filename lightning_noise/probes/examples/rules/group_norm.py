"""``nn.GroupNorm``."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.probes.examples.contribution import Contribution, Dense, working


def over_space(tensor: Tensor) -> Tensor:
    """(B, C, \\*space) summed to (B, C)."""
    return tensor.flatten(2).sum(2) if tensor.dim() > 2 else tensor


class GroupNormRule:
    """weight: Σ_s g_s ⊙ x̂_s over space, with x̂ the normalised input; bias: Σ_s g_s. Exact."""

    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})

    def __call__(self, module: nn.GroupNorm, inputs: tuple[Tensor, ...], grad: Tensor) -> Mapping[str, Contribution]:
        """Contributions from the gradient at the output."""
        grad = working(grad)

        def weight() -> Tensor:
            return over_space(functional.group_norm(working(inputs[0]), module.num_groups, eps=module.eps).mul_(grad))

        return {"weight": Dense(weight), "bias": Dense(lambda: over_space(grad))}
