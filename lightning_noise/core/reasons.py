"""Why something is not measured, or should be doubted."""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from lightning_noise.core.errors import NoiseScaleError


class Severity(Enum):
    """What follows from a reason."""

    SKIP = "skip"  # this step, or this probe where another serves, is not used
    WARN = "warn"  # the value is used, and doubted
    REFUSE = "refuse"  # nothing can be measured this way


class Reason(NamedTuple):
    """Why something is not measured, or should be doubted, with a suggested fix.

    Args:
        code: the same for all reasons of one kind; hosts look up their wording by it, and tests
            compare it.
        severity: what follows.
        text: what is the case, in words for the user.
        fix: what to do, as a sentence; "" where there is nothing.

    >>> str(Reason("one_group", Severity.SKIP, "there is one micro-batch", "Use two."))
    'there is one micro-batch. Use two.'
    """

    code: str
    severity: Severity
    text: str
    fix: str = ""

    def __str__(self) -> str:
        if not self.fix:
            return self.text
        return f"{self.text}. {self.fix}"


class CannotMeasureError(NoiseScaleError, ValueError):
    """The set-up cannot give a correct noise scale, as far as it or its first step shows.

    Args:
        reasons: each with its fix; the first one is the most important.
    """

    def __init__(self, reasons: Iterable[Reason]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join(map(str, self.reasons)))

    def __reduce__(self) -> tuple[type["CannotMeasureError"], tuple[tuple[Reason, ...]]]:
        return CannotMeasureError, (self.reasons,)
