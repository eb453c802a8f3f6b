"""Bilinear maps of two inputs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Dense
from lightning_noise.probes.examples.outer import over_positions, positions
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.examples.rule import Operands, Rule


class BilinearRule(Rule):
    """weight (L, K, M): Σ_t g_t ⊗ a_t ⊗ b_t, built; bias: Σ_t g_t."""

    op = "bilinear map"
    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})
    positions_first = True

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Products of three vectors at every position."""
        parts: dict[str, Contribution] = {}
        if "bias" in operands:
            parts["bias"] = Dense(lambda: over_positions(working(grad), 1))
        if "weight" in operands:
            given = [positions(working(x)) for x in (grad, inputs[0], inputs[1])]
            parts["weight"] = Dense(lambda: torch.einsum("btl,btk,btm->blkm", *given))
        return parts
