"""Errors of the probe, with the suggested fix first."""

from typing import Any

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.examples.coverage import Coverage
from lightning_noise.probes.examples.uncompiled import COMPILED, EAGER_FIX

ACCUMULATE = "Accumulate gradients over two micro-batches or more, each of half the batch size"


class UnsupportedModelError(NoiseScaleError, ValueError):
    """The model has no per-example gradients, or they cannot be seen.

    Args:
        code: as in :class:`~lightning_noise.core.reasons.Reason`.
        cause: what is wrong, without a full stop.
        fix: what to do about it, without a full stop.
        otherwise: other fixes, in full sentences.
    """

    def __init__(
        self,
        code: str,
        cause: str,
        fix: str = ACCUMULATE,
        otherwise: str = "",
    ) -> None:
        super().__init__(f"{fix}: {cause}. {otherwise}".rstrip())
        self.code = code
        self.cause = cause
        self.fix = fix
        self.otherwise = otherwise

    @property
    def skip(self) -> Reason:
        """Why a step is not used: the cause in one line, then the fix."""
        first_line = self.cause.splitlines()[0]
        text = f"{first_line}. {self.fix}"
        return Reason(self.code, Severity.SKIP, text, self.otherwise.strip())

    def __reduce__(self) -> tuple[type["UnsupportedModelError"], tuple[Any, ...]]:
        return UnsupportedModelError, (self.code, self.cause, self.fix, self.otherwise)


class CoverageError(UnsupportedModelError):
    """Less than ``min_coverage`` of the model is covered; ``coverage`` lists what is missing."""

    def __init__(self, coverage: Coverage, least: float) -> None:
        super().__init__(
            "low_coverage",
            f"the examples probe covers less than min_coverage={least:g} of the model: "
            f"{coverage.describe()}",
            _fix(coverage),
            otherwise="\nOr add rules with register_rule, or measure the covered part alone with "
            "Examples(min_coverage=…).",
        )
        self.coverage = coverage
        self.least_allowed = least

    def __reduce__(self) -> tuple[type["CoverageError"], tuple[Coverage, float]]:
        return CoverageError, (self.coverage, self.least_allowed)


def _fix(coverage: Coverage) -> str:
    if any(part.cause.kind == COMPILED for part in coverage.missing):
        return f"{EAGER_FIX}, or {ACCUMULATE[0].lower()}{ACCUMULATE[1:]}"
    return ACCUMULATE
