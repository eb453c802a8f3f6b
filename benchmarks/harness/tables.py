"""Tables in Markdown, and cells of them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "–"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rows = ["| " + " | ".join(line) + " |" for line in (head, *lines)]
    rule = "|" + "---|" * len(head)
    return "\n".join([rows[0], rule, *rows[1:]])


def number_cell(value: float | None, form: str = ".3g") -> str:
    """A number, or a dash for what is not defined."""
    if value is None or math.isnan(value):
        return MISSING
    return format(value, form)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return number_cell(100 * share, f".{digits}f")


def interval(bounded: Any, form: str = ".3f") -> str:
    """A median with its ends, or a dash."""
    if math.isnan(bounded.median):
        return MISSING
    return f"{bounded.median:{form}} [{bounded.low:{form}}, {bounded.high:{form}}]"


def escaped(text: str) -> str:
    """A text on one line, for a cell."""
    return " ".join(text.split()).replace("|", "\\|")
