"""How far a study is, as plain numbers and as a line of text: what its bar shows."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from lightning_noise.report.terms import SECONDS
from lightning_noise.say.words import about
from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.task import Done, RunKey

MOST_GOALS = 3  # that are named one by one


class Standing(NamedTuple):
    """How far a study is.

    Attributes:
        done: number of finished runs.
        expected: number of runs of the entire study, as far as it is known yet.
        phases: of the runs that are training.
        sizes: their global batch sizes, ascending.
        reached: goal → number of batch sizes at which a search trial has reached it.
        of_sizes: number of batch sizes of the study.
        seconds_left: None while it cannot be estimated, and at the end.
    """

    done: int
    expected: int
    phases: tuple[str, ...]
    sizes: tuple[int, ...]
    reached: dict[str, int]
    of_sizes: int
    seconds_left: float | None

    def __str__(self) -> str:
        parts = []
        if self.phases:
            sizes = ", ".join(map(str, self.sizes))
            parts.append(f"{' and '.join(self.phases)} at {sizes}")
        parts.append(self._goals())
        if self.seconds_left is not None:
            parts.append(f"{about(self.seconds_left)} left")
        return "; ".join(parts)

    def _goals(self) -> str:
        if len(self.reached) > MOST_GOALS:
            together = len(self.reached) * self.of_sizes
            return f"{len(self.reached)} goals reached {sum(self.reached.values())}/{together}"
        goals = [f"{name} {found}/{self.of_sizes}" for name, found in self.reached.items()]
        return f"reached {', '.join(goals)}"


def standing(
    plans: Sequence[SizePlan],
    goals: Sequence[Goal],
    done: Done,
    running: Collection[RunKey],
    workers: int,
) -> Standing:
    """How far a study is.

    Args:
        plans: of all batch sizes.
        goals: of the study.
        done: its finished runs.
        running: those that are training.
        workers: runs that train at the same time.
    """
    reached = {}
    for goal in goals:
        found = [plan for plan in plans if plan.best_steps(goal, done) is not None]
        reached[goal.name] = len(found)
    expected = 0
    finished = 0
    for plan in plans:
        expected += plan.expected(done)
        finished += plan.finished(done)
    return Standing(
        done=finished,
        expected=expected,
        phases=tuple(dict.fromkeys(key.phase for key in sorted(running))),
        sizes=tuple(sorted({key.global_size for key in running})),
        reached=reached,
        of_sizes=len(plans),
        seconds_left=seconds_left(remaining(plans, done), durations(done), workers),
    )


def remaining(plans: Sequence[SizePlan], done: Done) -> dict[int, int]:
    """Global batch size → number of runs that are not done, where there are any."""
    left = {}
    for plan in plans:
        open_runs = plan.expected(done) - plan.finished(done)
        if open_runs > 0:
            left[plan.global_size] = open_runs
    return left


def durations(done: Done) -> dict[int, list[float]]:
    """Global batch size → seconds of its finished runs, where they were timed."""
    found: dict[int, list[float]] = {}
    for key, records in done.items():
        for record in records:
            seconds = record.noise.get(SECONDS)
            if seconds is not None:
                found.setdefault(key.global_size, []).append(seconds)
    return found


def seconds_left(
    left: Mapping[int, int],
    taken: Mapping[int, Sequence[float]],
    workers: int,
) -> float | None:
    """The remaining runs times the mean time of the finished ones at their batch size.

    A batch size without a finished run counts like the nearest one that has some. The sum is
    divided by the number of workers, and is no less than one run. None without remaining runs, and
    before any run is finished.
    """
    if not left or not taken:
        return None
    means = {size: math.fsum(here) / len(here) for size, here in taken.items()}
    total = 0.0
    longest = 0.0
    for size, runs in left.items():
        mean = means[_nearest(size, means)]
        total += runs * mean
        longest = max(longest, mean)
    return max(total / max(workers, 1), longest)


def _nearest(size: int, known: Collection[int]) -> int:
    return min(known, key=lambda other: abs(math.log(other / size)))
