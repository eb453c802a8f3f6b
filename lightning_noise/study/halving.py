"""Successive halving over seeds: every rung runs the better trials with one more seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_noise.study.ranking import Standing, best, halvings, steps_that_matter
from lightning_noise.study.space import as_given
from lightning_noise.study.state import State, steps_of
from lightning_noise.study.task import REPEAT, Done, RunKey, Task

if TYPE_CHECKING:
    from lightning_noise.study.goal import Goal
    from lightning_noise.study.plan import SizePlan

APART = 100_000  # between the seeds of two rungs; those of the reruns lie between


class Halving:
    """The rungs after the search.

    Args:
        plan: of the batch size.
        state: with the complete search.
        done: all runs.
    """

    def __init__(self, plan: SizePlan, state: State, done: Done) -> None:
        self._plan = plan
        self._state = state
        self._done = done
        self._keep = list(halvings(plan.search.trials))
        # goal → trials that are still in, best first, and what they have shown
        self._in: dict[Goal, dict[int, Standing]] = {}
        for goal in plan.goals:
            standings = {}
            for trial, steps in state.steps(goal).items():
                standings[trial] = Standing().after(steps)
            self._in[goal] = _only(standings, best(standings, self._keep[0]))

    @property
    def winners(self) -> dict[Goal, int]:
        """Goal → its winner, where a trial has reached it."""
        found = {}
        for goal, standings in self._in.items():
            for trial in best(standings, 1):
                found[goal] = trial
        return found

    def run(self) -> bool:
        """Whether every rung is complete; open tasks are noted."""
        rungs = enumerate(self._keep[1:], start=1)
        return all(self._rung(rung, keep) for rung, keep in rungs)

    def _rung(self, rung: int, keep: int) -> bool:
        """All trials that are in, with the seed of this rung."""
        trials = self._order()
        wave = self._plan.search.wave
        shown: dict[Goal, dict[int, Standing]] = {goal: {} for goal in self._contested()}
        for begin in range(0, len(trials), wave):
            tasks = []
            for trial in trials[begin : begin + wave]:
                tasks.append(self._task(trial, rung, keep, shown))
            if not self._plan.run_wave(self._state, tasks, self._done):
                return False
            for task in tasks:
                outcome = self._state.outcomes[task.key]
                for goal in task.goals:
                    before = self._in[goal][task.trial]
                    shown[goal][task.trial] = before.after(steps_of(outcome, goal))
        for goal, standings in shown.items():
            self._in[goal] = _only(standings, best(standings, keep))
        return True

    def _contested(self) -> list[Goal]:
        """Goals with more than one trial left."""
        return [goal for goal, standings in self._in.items() if len(standings) > 1]

    def _order(self) -> list[int]:
        """The trials of this rung, the best of any goal first: so that the others can be pruned."""
        rank: dict[int, int] = {}
        for goal in self._contested():
            for place, trial in enumerate(self._in[goal]):
                rank[trial] = min(place, rank.get(trial, place))
        return sorted(rank, key=lambda trial: (rank[trial], trial))

    def _task(
        self,
        trial: int,
        rung: int,
        keep: int,
        shown: dict[Goal, dict[int, Standing]],
    ) -> Task:
        goals = tuple(goal for goal in shown if trial in self._in[goal])
        matter = 0.0
        for goal in goals:
            others = list(shown[goal].values())
            matter = max(matter, steps_that_matter(self._in[goal][trial], others, keep))
        if not self._plan.search.prune:
            matter = math.inf
        key = RunKey(
            global_size=self._plan.global_size,
            phase=REPEAT,
            trial=trial,
            seed=self._plan.search.seed + APART * rung,
        )
        return Task(
            *key,
            parameters=as_given(self._state.points[trial]),
            max_steps=self._plan.first_check_after(matter),
            goals=goals,
        )


def _only(standings: dict[int, Standing], trials: list[int]) -> dict[int, Standing]:
    return {trial: standings[trial] for trial in trials}
