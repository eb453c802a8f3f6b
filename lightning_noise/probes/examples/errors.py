"""Errors of the probe, with the suggested fix first."""

from typing import Any

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.probes.examples.coverage import Coverage

ACCUMULATE = "Accumulate gradients over two micro-batches or more, each of half the batch size"


class UnsupportedModelError(NoiseScaleError, ValueError):
    """The model has no per-example gradients, or they cannot be seen.

    Args:
        cause: what is wrong, without a full stop.
        fix: what to do about it, without a full stop.
        otherwise: other fixes, in full sentences.
    """

    def __init__(
        self,
        cause: str,
        fix: str = ACCUMULATE,
        otherwise: str = "",
    ) -> None:
        super().__init__(f"{fix}: {cause}. {otherwise}".rstrip())
        self.cause = cause
        self.fix = fix
        self.otherwise = otherwise

    @property
    def in_brief(self) -> str:
        """The cause in one line, then the fix: for a list of steps that could not be used."""
        first_line = self.cause.splitlines()[0]
        return f"{first_line}. {self.fix}"

    def __reduce__(self) -> tuple[type["UnsupportedModelError"], tuple[Any, ...]]:
        return UnsupportedModelError, (self.cause, self.fix, self.otherwise)


class CoverageError(UnsupportedModelError):
    """Less than ``min_coverage`` of the model is covered; ``coverage`` lists what is missing."""

    def __init__(self, coverage: Coverage, least: float) -> None:
        covered = f"the examples probe covers less than min_coverage={least:g} of the model"
        super().__init__(
            f"{covered}: {coverage.describe()}",
            otherwise="\nOr add rules with register_rule, or measure the covered part alone with "
            "Examples(min_coverage=…).",
        )
        self.coverage = coverage
        self.least_allowed = least

    def __reduce__(self) -> tuple[type["CoverageError"], tuple[Coverage, float]]:
        return CoverageError, (self.coverage, self.least_allowed)
