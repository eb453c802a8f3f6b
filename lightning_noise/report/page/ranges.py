"""Numbers of the page as text."""

from lightning_noise.report.page.costs import Range
from lightning_noise.say.values import with_interval
from lightning_noise.say.words import number

UNKNOWN = "unknown"


def range_text(found: Range | None) -> str:
    """A number with its interval, or the end that is known.

    >>> range_text(Range(6.0, 4.5, 9.0)), range_text(Range(None, 4.5, None)), range_text(None)
    ('6 [4.5, 9]', 'at least 4.5', 'unknown')
    """
    if found is None:
        return UNKNOWN
    if found.value is not None and found.low == found.high:
        return number(found.value)
    if found.value is not None:
        return with_interval(found.value, found.low, found.high)
    if found.low is not None:
        return f"at least {number(found.low)}"
    if found.high is not None:
        return f"at most {number(found.high)}"
    return UNKNOWN


def duration(hours: float) -> str:
    """A time in the unit that suits it.

    >>> duration(2.5), duration(0.25), duration(0.0025)
    ('2.5 hours', '15 minutes', '9 seconds')
    """
    if hours >= 1:
        return f"{number(hours)} hours"
    if hours * 60 >= 1:
        return f"{number(hours * 60)} minutes"
    return f"{number(hours * 3600)} seconds"


def number_text(value: float | None) -> str:
    """A number, or that it is unknown."""
    if value is None:
        return UNKNOWN
    return number(value)
