"""Why something is not measured, or should be doubted: a code, a severity, a text and a suggested
fix.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from lightning_noise.core.errors import NoiseScaleError


class Severity(Enum):
    """What follows from a reason."""

    SKIP = "skip"  # this step is not used
    WARN = "warn"  # the number is used, and doubted
    REFUSE = "refuse"  # nothing can be measured this way


class Reason(NamedTuple):
    """Why something is not measured, or should be doubted.

    Args:
        code: the same for every reason of a kind; hosts look up their own words by it, tests
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
        return f"{self.text}. {self.fix}" if self.fix else self.text


class CannotMeasureError(NoiseScaleError, ValueError):
    """The set-up, or what its first step shows, can never give a right number.

    Args:
        reasons: each with its fix; the first one is the most important.
    """

    def __init__(self, reasons: Iterable[Reason]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join(map(str, self.reasons)))

    def __reduce__(self) -> tuple[type["CannotMeasureError"], tuple[tuple[Reason, ...]]]:
        return CannotMeasureError, (self.reasons,)
