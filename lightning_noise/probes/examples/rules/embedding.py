"""Look-ups in a table, with a padding token, with dense or sparse gradients."""

from collections.abc import Mapping

from torch import Tensor

from lightning_noise.probes.examples.contribution import Contribution, Form, NotPerExample
from lightning_noise.probes.examples.lookup import Lookup
from lightning_noise.probes.examples.rule import Operands, Rule

BY_FREQUENCY = "scale_grad_by_freq ties the examples of a batch together"


class EmbeddingRule(Rule):
    """weight: a table whose rows are looked up.

    Args:
        padding: index of the row that gets no gradient.
        sparse: whether the table's gradient is sparse.
        by_frequency: whether gradients are scaled by how often a token is in the batch.
    """

    op = "embedding"
    parameters = frozenset({"weight"})
    positions_first = True

    def __init__(
        self,
        padding: int | None = None,
        sparse: bool = False,
        by_frequency: bool = False,
    ) -> None:
        self.padding = padding
        self.sparse = sparse
        self.by_frequency = by_frequency

    def refuses(self) -> str | None:
        """Gradients scaled by a token's frequency in the batch are not sums over examples."""
        if self.by_frequency:
            return BY_FREQUENCY
        return None

    def doubts(self, inputs: tuple[Tensor, ...]) -> str | None:
        """Positions 0, 1, 2, … of one sequence may by chance be as many as the examples."""
        ids = inputs[0]
        if ids.dim() == 1 and len(ids) > 1 and bool((ids.diff() == 1).all()):
            return "it looks up consecutive numbers: positions, not examples"
        return None

    def forms(self, name: str, operand: Tensor) -> tuple[Form, ...]:
        """One sign per token."""
        return (Form("rows", len(operand)),)

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Contribution]:
        """Gradients of the rows that were looked up."""
        if grad.dim() < 2:
            raise NotPerExample("it was called without a batch dimension")
        rows = len(operands["weight"])
        return {"weight": Lookup(grad, inputs[0], rows, self.padding, self.sparse)}
