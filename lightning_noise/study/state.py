"""What follows, at one batch size, from the runs that are done."""

import math
from collections.abc import Iterable

from lightning_noise.study.goal import Goal
from lightning_noise.study.settings import MOST
from lightning_noise.study.space import Distributions, Parameters
from lightning_noise.study.strips import Strip
from lightning_noise.study.task import SEARCH, Outcome, RunKey, Task


class State:
    """Filled by the plan of a batch size.

    Attributes:
        space: the ranges that are searched, with what was added because winners lay at an edge.
        strips: what was added in this way.
        points: search trial → its point in the space.
        outcomes: what every run has given that counts and is done.
        open: tasks that can start now; empty when the study is complete at this size.
        winners: goal → the search trial that won; empty until all have been compared.
    """

    def __init__(self, space: Distributions) -> None:
        self.space = space
        self.strips: list[Strip] = []
        self.points: dict[int, Parameters] = {}
        self.outcomes: dict[RunKey, Outcome] = {}
        self.open: list[Task] = []
        self.winners: dict[Goal, int] = {}

    def steps(self, goal: Goal) -> dict[int, float]:
        """Search trial → its steps to the goal; infinite where it did not reach it."""
        found = {}
        for key, outcome in self.outcomes.items():
            if key.phase == SEARCH:
                found[key.trial] = steps_of(outcome, goal)
        return found

    def of_strip(self, strip: Strip, trials: int) -> range:
        """The search trials of something that was added."""
        first = strip.number * MOST
        return range(first, first + strip.count(trials))

    def leaders(self, goals: Iterable[Goal]) -> dict[Goal, int]:
        """Goal → the search trial with the fewest steps, where one has reached it."""
        found = {}
        for goal in goals:
            fewest = math.inf
            for trial, steps in self.steps(goal).items():
                if steps < fewest:
                    fewest = steps
                    found[goal] = trial
        return found


def steps_of(outcome: Outcome, goal: Goal) -> float:
    """Infinite where the run did not reach the goal."""
    steps = outcome.goals[goal].steps
    if steps is None:
        return math.inf
    return steps
