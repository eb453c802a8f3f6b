"""``nn.Linear`` with any number of leading dimensions."""

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_noise.probes.examples.contribution import Contribution, Dense, Form, working
from lightning_noise.probes.examples.outer import Outer, over_positions


class LinearRule:
    """weight: Σ_t g_t a_tᵀ; bias: Σ_t g_t."""

    parameters = frozenset({"weight", "bias"})
    without_inputs = frozenset({"bias"})
    lowered = True

    def forms(self, module: nn.Linear) -> Mapping[str, tuple[Form, ...]]:
        """Along the smaller side first: fewer signs, and less variance."""
        forms = Form("rows", module.out_features), Form("cols", module.in_features)
        return {"weight": tuple(sorted(forms, key=lambda form: form.signs))}

    def __call__(self, module: nn.Linear, inputs: tuple[Tensor, ...], grad: Tensor) -> Mapping[str, Contribution]:
        """Contributions from the gradient at the output."""
        parts: dict[str, Contribution] = {"bias": Dense(lambda: over_positions(working(grad), 1))}
        if inputs:
            parts["weight"] = Outer(grad, inputs[0], "bias")
        return parts
