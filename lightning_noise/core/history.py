"""The noise scale over a run, thinned to a bounded number of moments."""

from typing import NamedTuple

MOST = 800  # more than a figure has columns


class Moment(NamedTuple):
    """What was known at an optimizer step; ``None`` where it cannot be determined.

    Args:
        step: on the axis of the loggers.
        measured: steps measured until then.
        b: the noise scale, in examples.
        low, high: its interval.
        size: examples that one optimizer step used.
    """

    step: int
    measured: int
    b: float | None
    low: float | None
    high: float | None
    size: float | None


class History:
    """Moments of a run in their order.

    When there are more than ``most``, every second one is dropped and from then on only every
    second one is kept, and so on: the moments stay evenly spaced over the run. The latest one is
    always there.

    >>> history = History(most=4)
    >>> for step in range(10):
    ...     history.add(Moment(step, step, 100.0, 80.0, 125.0, 32.0))
    >>> [moment.step for moment in history.moments]
    [0, 4, 8, 9]
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: list[Moment] = []
        self._latest: Moment | None = None
        self._every = 1
        self._seen = 0

    @property
    def moments(self) -> list[Moment]:
        """Those that are kept, and the latest one."""
        if self._latest is None or self._kept[-1] == self._latest:
            return list(self._kept)
        return [*self._kept, self._latest]

    def add(self, moment: Moment) -> None:
        """Adds a later moment."""
        self._latest = moment
        if self._seen % self._every == 0:
            self._kept.append(moment)
        self._seen += 1
        if len(self._kept) > self._most:
            self._kept = self._kept[::2]
            self._every *= 2
