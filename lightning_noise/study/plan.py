"""What to run next at one batch size, as a pure function of what has been run.

Therefore a study that is resumed gives the same table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lightning_noise.study.goal import Goal
from lightning_noise.study.settings import Search
from lightning_noise.study.space import Distributions, Parameters, around, points
from lightning_noise.study.task import RERUN, SEARCH, Done, RunKey, Task


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """The protocol at one batch size.

    It is a search in waves, a closer search around each goal's winner, and reruns of the winners.

    Args:
        global_size: examples in one optimizer step.
        space: ranges of the parameters at this size.
        goals: of the study.
        search: how many runs of each kind, with what seeds, and whether to prune.
        budget_steps: optimizer steps that a run may take at most.
        every: steps between validations, of which ``max_steps`` has to be a multiple (1 without
            validation).
    """

    global_size: int
    space: Distributions
    goals: tuple[Goal, ...]
    search: Search
    budget_steps: int
    every: int

    def settings(self, done: Done) -> list[Parameters]:
        """The parameters of all search trials that are known so far.

        Those of the closer search are known once the first search is complete.
        """
        found = list(self._first)
        if self.search.refine and self._complete(self.search.trials, done):
            best = self._winners(self.search.trials, done)
            for winner in dict.fromkeys(best.values()):
                found += self._closer(winner)
        return found

    @cached_property
    def _first(self) -> list[Parameters]:
        return points(self.space, self.search.trials, self._points_seed)

    @cached_property
    def _memo(self) -> dict[int, list[Parameters]]:
        return {}

    def _closer(self, winner: int) -> list[Parameters]:
        if winner not in self._memo:
            near = around(self.space, self._first[winner], self.search.trials)
            seed = self._points_seed + 1 + winner
            self._memo[winner] = points(near, self.search.refine, seed)
        return self._memo[winner]

    def winners(self, done: Done) -> dict[Goal, int]:
        """Goal → the search trial that reached it in the fewest steps, of those that are done."""
        return self._winners(len(self.settings(done)), done)

    def best_steps(self, goal: Goal, done: Done) -> float | None:
        """The steps of the goal's winner; None where there is none yet."""
        trial = self.winners(done).get(goal)
        if trial is None:
            return None
        return self._steps(trial, goal, done)

    def next_tasks(self, done: Done) -> list[Task]:
        """Every task that can start and has not been done; empty when all is done."""
        settings = self.settings(done)
        for begin, end in self._waves(len(settings)):
            cap = self._cap(begin, done)
            wave = []
            for trial in range(begin, end):
                wave.append(self._search_task(trial, settings[trial], cap))
            open_tasks = _not_in(done, wave)
            if open_tasks:
                return open_tasks
        return _not_in(done, self._reruns(settings, done))

    def expected(self, done: Done) -> int:
        """Number of runs of the entire protocol, as far as it is known yet."""
        known = len(self.settings(done))
        winners = 1
        if self._complete(known, done):
            best = self._winners(known, done)
            winners = len(set(best.values()))
        closer = self.search.refine
        if known > self.search.trials or self._complete(self.search.trials, done):
            closer = 0
        return known + closer + self.search.seeds * winners

    def _waves(self, known: int) -> Iterator[tuple[int, int]]:
        """First trial and end of each wave; the closer search starts a new wave."""
        trials = self.search.trials
        wave = self.search.wave
        for begin in range(0, trials, wave):
            yield begin, min(begin + wave, trials)
        for begin in range(trials, known, wave):
            yield begin, min(begin + wave, known)

    def _search_task(self, trial: int, parameters: Parameters, cap: int) -> Task:
        key = self._search_key(trial)
        return Task(
            *key,
            parameters=parameters,
            max_steps=cap,
            goals=self.goals,
        )

    def _reruns(self, settings: list[Parameters], done: Done) -> list[Task]:
        won: dict[int, list[Goal]] = {}
        for goal, trial in self._winners(len(settings), done).items():
            won.setdefault(trial, []).append(goal)
        tasks = []
        for winner, goals in won.items():
            for fresh in range(1, self.search.seeds + 1):
                task = Task(
                    global_size=self.global_size,
                    phase=RERUN,
                    trial=winner,
                    seed=self.search.seed + fresh,
                    parameters=settings[winner],
                    max_steps=self.budget_steps,
                    goals=tuple(goals),
                )
                tasks.append(task)
        return tasks

    def _cap(self, known: int, done: Done) -> int:
        """Steps after which a run can no longer win any goal, given the first ``known`` trials.

        That is the first check behind the best crossing of the slowest goal.
        """
        best = self._winners(known, done)
        if not self.search.prune or len(best) < len(self.goals):
            return self.budget_steps
        slowest = 0.0
        for goal, trial in best.items():
            slowest = max(slowest, self._steps(trial, goal, done))
        checks = math.floor(slowest / self.every) + 2
        return min(self.budget_steps, checks * self.every)

    def _winners(self, known: int, done: Done) -> dict[Goal, int]:
        best = {}
        for goal in self.goals:
            fewest = math.inf
            for trial in range(known):
                steps = self._steps(trial, goal, done)
                if steps < fewest:
                    fewest = steps
                    best[goal] = trial
        return best

    def _steps(self, trial: int, goal: Goal, done: Done) -> float:
        """Infinite where the trial is not done or did not reach the goal."""
        outcome = done.get(self._search_key(trial))
        if outcome is None:
            return math.inf
        steps = outcome.goals[goal].steps
        if steps is None:
            return math.inf
        return steps

    def _complete(self, number: int, done: Done) -> bool:
        return all(self._search_key(trial) in done for trial in range(number))

    def _search_key(self, trial: int) -> RunKey:
        return RunKey(
            global_size=self.global_size,
            phase=SEARCH,
            trial=trial,
            seed=self.search.seed,
        )

    @property
    def _points_seed(self) -> int:
        return self.search.seed * 1_000_003 + self.global_size


def _not_in(done: Done, tasks: list[Task]) -> list[Task]:
    return [task for task in tasks if task.key not in done]
