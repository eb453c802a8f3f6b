"""Tables in Markdown, and cells of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

MISSING = "–"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rows = ["| " + " | ".join(line) + " |" for line in (head, *lines)]
    rule = "|" + "---|" * len(head)
    return "\n".join([rows[0], rule, *rows[1:]])


def table_of(**forms: str) -> Callable[[Sequence[Any]], str]:
    """Makes tables of rows with all their columns; ``forms`` are those of numbers, by column."""

    def table(rows: Sequence[Any]) -> str:
        names = rows[0]._fields
        lines = []
        for row in rows:
            lines.append([format(getattr(row, name), forms.get(name, "")) for name in names])
        return markdown([name.replace("_", " ") for name in names], lines)

    return table


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


def noise_scale_cell(value: float | None, low: float | None, high: float | None) -> str:
    """A noise scale with its interval, or why there is none."""
    if value is None:
        return "not defined" if low is None else f"not resolved, at least {low:.3g}"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def escaped(text: str) -> str:
    """A text on one line, for a cell."""
    return " ".join(text.split()).replace("|", "\\|")
