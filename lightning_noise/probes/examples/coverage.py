"""How much of the model the probe sees, and what it does not see, by name."""

from typing import NamedTuple

from lightning_noise.core.errors import NoiseScaleError


class Missing(NamedTuple):
    """A parameter that is left out, its size and the reason in words."""

    name: str
    numbers: int
    reason: str


class Coverage(NamedTuple):
    """Share of the parameters, and of |ḡ|² where it has been measured, that per-example norms are taken of.

    Args:
        parameters: share of the numbers in the watched parameters.
        grad_sq: share of the squared norm of the gradient; ``None`` before the first self-check.
        missing: what is left out.
    """

    parameters: float
    grad_sq: float | None
    missing: tuple[Missing, ...]

    @property
    def least(self) -> float:
        """The smaller of both shares."""
        return self.parameters if self.grad_sq is None else min(self.parameters, self.grad_sq)

    def describe(self) -> str:
        """The shares, and what is missing, one line a parameter, the largest first."""
        shares = f"{self.parameters:.1%} of the parameters"
        if self.grad_sq is not None:
            shares += f" and {self.grad_sq:.1%} of the squared gradient norm"
        largest = sorted(self.missing, key=lambda part: -part.numbers)
        return "\n".join([shares, *(f"  {part.name} ({part.numbers} numbers): {part.reason}" for part in largest)])


class UnsupportedModelError(NoiseScaleError, ValueError):
    """The model has no per-example gradients, or they cannot be seen."""


class CoverageError(UnsupportedModelError):
    """Less than ``min_coverage`` of the model is covered; ``coverage`` lists what is missing."""

    def __init__(self, coverage: Coverage, least: float) -> None:
        super().__init__(
            f"the examples probe covers less than min_coverage={least:g} of the model: {coverage.describe()}\n"
            "Add rules with register_rule, lower min_coverage to measure the covered part alone, or use another probe "
            "(micro_batches with accumulate_grad_batches >= 2)."
        )
        self.coverage = coverage
        self.least_allowed = least

    def __reduce__(self) -> tuple[type["CoverageError"], tuple[Coverage, float]]:
        return CoverageError, (self.coverage, self.least_allowed)
