"""Linear maps of the last dimension, with any number of dimensions before it."""

from collections.abc import Hashable, Mapping

from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Dense, Form
from lightning_noise.probes.examples.outer import Outer, over_positions
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.examples.rule import Operands, Rule


class LinearRule(Rule):
    """weight (L, K): Σ_t g_t a_tᵀ; bias: Σ_t g_t."""

    op = "linear"
    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})
    lowered = True
    positions_first = True

    def kind(self) -> Hashable:
        """There are no arguments; a subclass may differ."""
        return LinearRule if type(self) is LinearRule else None

    def forms(self, name: str, operand: Tensor) -> tuple[Form, ...]:
        """Along the smaller side first: fewer signs, and less variance."""
        if name != "weight":
            return ()
        rows, cols = operand.shape
        forms = Form("rows", rows), Form("cols", cols)
        return tuple(sorted(forms, key=lambda form: form.signs))

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """An outer product at every position."""
        parts: dict[str, Contribution] = {}
        if "bias" in operands:
            parts["bias"] = Dense(lambda: over_positions(working(grad), 1))
        if "weight" in operands:
            parts["weight"] = Outer(grad, inputs[0], "bias")
        return parts
