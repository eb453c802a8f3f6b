"""How often an adaptive run measures: as rarely as keeps measuring cheap, by the clock."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from lightning_noise.core.estimate import NoiseEstimate

SHARE = 0.1  # of the time of a step: what measuring may add on average
MOST = 16  # at least one of so many steps is measured
TRIAL = 2  # every second step is measured until both kinds of steps are timed
KEPT = 64  # durations of each kind: the latest
KNOWN = 4.0  # upper over lower end of the noise scale's interval, up to which steps are left out
LEAST_STEPS = 5  # durations of each kind from which they are compared


def is_known(estimate: NoiseEstimate) -> bool:
    """Whether the interval of the noise scale has two ends that lie within a factor of four."""
    if estimate.low is None or estimate.high is None:
        return False
    return 0 < estimate.high <= KNOWN * estimate.low


class Cadence(NamedTuple):
    """One of every ``every`` optimizer steps is measured.

    A run begins by measuring every step. From the first decision on it measures every second one,
    until it knows by how much measuring lengthens a step. Then it measures every step again until
    the noise scale is known within a factor, since no size is changed before. From there on it
    measures as often as adds at most 10 % to its time, and at least one of 16 steps. Large models
    measure every step.

    Args:
        every: optimizer steps of which one is measured.
        ratio: time of a measured step over that of another one; ``None`` while it is not known.
        measured: seconds of the latest measured steps of the present size.
        others: seconds of the latest other steps of the present size.

    >>> cadence = Cadence().timed([2.5] * 8, []).decided()
    >>> cadence.every, cadence.ratio
    (2, None)
    >>> cadence = cadence.timed([2.5] * 8, [2.0] * 8).decided()
    >>> cadence.every, cadence.ratio
    (3, 1.25)
    """

    every: int = 1
    ratio: float | None = None
    measured: tuple[float, ...] = ()
    others: tuple[float, ...] = ()

    def timed(self, measured: Sequence[float], others: Sequence[float]) -> "Cadence":
        """With the durations of further steps of the present size.

        Where every step is measured they have nothing to be compared with, and are left out.
        """
        if self.every == 1 and self.ratio is not None:
            return self
        return self._replace(
            measured=(*self.measured, *measured)[-KEPT:],
            others=(*self.others, *others)[-KEPT:],
        )

    def resized(self) -> "Cadence":
        """Steps have another size from here on."""
        return self._replace(measured=(), others=())

    def decided(self, *, known: bool = True) -> "Cadence":
        """How often to measure until the next decision.

        Args:
            known: whether the noise scale is.
        """
        ratio = self._compared()
        if ratio is None and len(self.measured) < LEAST_STEPS:
            return self
        if ratio is None:
            return self._replace(every=TRIAL)
        every = 1
        if known:
            every = min(max(math.ceil((ratio - 1) / SHARE - 1e-9), 1), MOST)
        return self._replace(ratio=ratio, every=every)

    def _compared(self) -> float | None:
        """The ratio by the latest steps of both kinds, or as it is known where they are few."""
        if min(len(self.measured), len(self.others)) < LEAST_STEPS:
            return self.ratio
        usual = statistics.median(self.others)
        if usual <= 0:
            return self.ratio
        return max(1.0, statistics.median(self.measured) / usual)
