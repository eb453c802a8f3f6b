"""What a run's logger wrote, as plain values."""

from typing import NamedTuple


class Point(NamedTuple):
    """One logged value.

    Args:
        step: on the axis of the loggers.
        value: what was logged.
        order: grows with the order of logging: seconds since 1970, or the number of the row.
    """

    step: int
    value: float
    order: float


class LoggedText(NamedTuple):
    """A text as it was logged, and its step."""

    step: int
    text: str


class RunLog(NamedTuple):
    """The log of one run.

    Args:
        name: what the run is called on the page.
        scalars: their points by name, in the order in which they were logged.
        texts: the last one by name.
        timed: whether ``order`` is a time in seconds.
    """

    name: str
    scalars: dict[str, list[Point]]
    texts: dict[str, LoggedText]
    timed: bool
