"""Which search trials go on: successive halving over seeds. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Standing(NamedTuple):
    """What a trial has shown for a goal, over the seeds that it was run with.

    Attributes:
        failures: seeds with which it did not reach the goal.
        logs: ln of the steps with the other seeds.
    """

    failures: int = 0
    logs: tuple[float, ...] = ()

    def after(self, steps: float) -> "Standing":
        """With another seed; ``steps`` is infinite where the goal was not reached."""
        if math.isinf(steps):
            return self._replace(failures=self.failures + 1)
        return self._replace(logs=(*self.logs, math.log(steps)))

    @property
    def total(self) -> float:
        """The sum of ln S; infinite where a seed failed. Trials of a rung have as many seeds."""
        if self.failures:
            return math.inf
        return math.fsum(self.logs)

    @property
    def _order(self) -> tuple[int, float]:
        mean = math.inf
        if self.logs:
            mean = math.fsum(self.logs) / len(self.logs)
        return self.failures, mean


Standings = Mapping[int, Standing]


def best(standings: Standings, keep: int) -> list[int]:
    """The trials that go on, best first: at most ``keep``.

    They are ranked by the mean of ln S over the seeds, and ties by their number. A trial that
    failed with any seed ranks behind those that never did, and goes on only where all have failed.
    """
    ranked = sorted(standings, key=lambda trial: (*standings[trial]._order, trial))
    reached = [trial for trial in ranked if standings[trial].logs]
    clean = [trial for trial in reached if not standings[trial].failures]
    return (clean or reached)[:keep]


def steps_that_matter(standing: Standing, others: Sequence[Standing], keep: int) -> float:
    """Steps with another seed after which a trial can no longer be among the best ``keep``.

    Args:
        standing: of the trial, before that seed.
        others: of trials that were run with that seed already.
        keep: how many go on.
    """
    totals = sorted(other.total for other in others)
    if standing.failures or len(totals) < keep or math.isinf(totals[keep - 1]):
        return math.inf
    room = totals[keep - 1] - math.fsum(standing.logs)
    if room > math.log(1e15):
        return math.inf
    return math.exp(room)


def halvings(trials: int) -> Iterator[int]:
    """How many go on after each rung, down to the winner: 8, 4, 2, 1 of 16."""
    keep = trials
    while True:
        keep = -(-keep // 2)
        yield keep
        if keep == 1:
            return
