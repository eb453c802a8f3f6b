"""Numbers of the page as text."""

from typing import NamedTuple

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


class TimeUnit(NamedTuple):
    """A unit of time.

    Args:
        name: in the plural.
        per_hour: how many of them are an hour.
    """

    name: str
    per_hour: float


def time_unit(hours: float) -> TimeUnit:
    """The unit in which a time is read best.

    >>> time_unit(2.5).name, time_unit(0.25).name, time_unit(0.0025).name, time_unit(100).name
    ('hours', 'minutes', 'seconds', 'days')
    """
    if hours >= 48:
        return TimeUnit("days", 1 / 24)
    if hours >= 1:
        return TimeUnit("hours", 1.0)
    if hours * 60 >= 1:
        return TimeUnit("minutes", 60.0)
    return TimeUnit("seconds", 3600.0)


def duration(hours: float) -> str:
    """A time in the unit that suits it.

    >>> duration(2.5), duration(0.25), duration(0.0025)
    ('2.5 hours', '15 minutes', '9 seconds')
    """
    unit = time_unit(hours)
    return f"{number(hours * unit.per_hour)} {unit.name}"


def number_text(value: float | None) -> str:
    """A number, or that it is unknown."""
    if value is None:
        return UNKNOWN
    return number(value)
