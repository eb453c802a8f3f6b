"""What to run next at one batch size, as a pure function of what has been run: so a study resumes to the same table."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from lightning_noise.study.space import Distributions, Parameters, around, points
from lightning_noise.study.trial import RERUN, SEARCH, Outcome, Task

WAVE = 4  # trials of a batch size that are started together; a later wave knows the best of the earlier ones

Done = Mapping[tuple[int, str, int, int], Outcome]


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """The protocol at one batch size: a search in waves, a closer search round each goal's winner, reruns of the winners.

    Args:
        global_size: examples in one optimizer step.
        space: ranges of the parameters at this size.
        goals: their number.
        trials, refine, seeds: runs of the search, of the closer search a winner, of the reruns a winner.
        seed: of the search; the reruns have the following ones.
        budget_steps: optimizer steps that a run may take at most.
        every: steps between validations, of which ``max_steps`` has to be a multiple (1 without validation).
        prune: ends runs that can no longer win.
    """

    global_size: int
    space: Distributions
    goals: int
    trials: int
    refine: int
    seeds: int
    seed: int
    budget_steps: int
    every: int
    prune: bool

    def settings(self, done: Done) -> list[Parameters]:
        """The parameters of all search trials that are known so far; the closer search is once the first one is complete."""
        found = list(self._first)
        if self.refine and self._complete(self.trials, done):
            for winner in dict.fromkeys(self._winners(self.trials, done).values()):
                found += self._closer(winner)
        return found

    @cached_property
    def _first(self) -> list[Parameters]:
        return points(self.space, self.trials, self._points_seed)

    @cached_property
    def _memo(self) -> dict[int, list[Parameters]]:
        return {}

    def _closer(self, winner: int) -> list[Parameters]:
        if winner not in self._memo:
            near = around(self.space, self._first[winner], self.trials)
            self._memo[winner] = points(near, self.refine, self._points_seed + 1 + winner)
        return self._memo[winner]

    def winners(self, done: Done) -> dict[int, int]:
        """Goal → the search trial that reached it in the fewest steps, of those that are done."""
        return self._winners(len(self.settings(done)), done)

    def next_tasks(self, done: Done) -> list[Task]:
        """Everything that can be run now and has not been run; empty when all is done."""
        settings = self.settings(done)
        for begin, end in self._waves(len(settings)):
            wave = [self._search(i, settings[i], begin, done) for i in range(begin, end)]
            open_tasks = [task for task in wave if task.key not in done]
            if open_tasks:
                return open_tasks
        return [task for task in self._reruns(settings, done) if task.key not in done]

    def expected(self, done: Done) -> int:
        """Number of runs of the whole protocol, as far as it can be told."""
        settings = self.settings(done)
        searched = self._complete(len(settings), done)
        winners = len(set(self.winners(done).values())) if searched else 1
        closer = 0 if len(settings) > self.trials or self._complete(self.trials, done) else self.refine
        return len(settings) + closer + self.seeds * winners

    def _waves(self, known: int) -> Iterator[tuple[int, int]]:
        for first, last in ((0, self.trials), (self.trials, known)):  # the closer search starts a wave of its own
            for begin in range(first, last, WAVE):
                yield begin, min(begin + WAVE, last)

    def _search(self, trial: int, parameters: Parameters, known: int, done: Done) -> Task:
        cap = self._cap(known, done) if self.prune else self.budget_steps
        return Task(self.global_size, SEARCH, trial, self.seed, parameters, cap, tuple(range(self.goals)))

    def _reruns(self, settings: list[Parameters], done: Done) -> list[Task]:
        best = self._winners(len(settings), done)
        tasks = []
        for winner in dict.fromkeys(best.values()):
            goals = tuple(goal for goal, trial in best.items() if trial == winner)
            tasks += [
                Task(self.global_size, RERUN, winner, self.seed + fresh, settings[winner], self.budget_steps, goals)
                for fresh in range(1, self.seeds + 1)
            ]
        return tasks

    def _cap(self, known: int, done: Done) -> int:
        """Steps after which a run can no longer win any goal: the first check behind the slowest goal's best crossing."""
        best = self._winners(known, done)
        if len(best) < self.goals:
            return self.budget_steps
        slowest = max(self._steps(trial, goal, done) for goal, trial in best.items())
        return min(self.budget_steps, (math.floor(slowest / self.every) + 2) * self.every)

    def _winners(self, known: int, done: Done) -> dict[int, int]:
        best = {}
        for goal in range(self.goals):
            reached = [i for i in range(known) if self._steps(i, goal, done) < math.inf]
            if reached:
                best[goal] = min(reached, key=lambda i: (self._steps(i, goal, done), i))
        return best

    def _steps(self, trial: int, goal: int, done: Done) -> float:
        outcome = done.get((self.global_size, SEARCH, trial, self.seed))
        steps = outcome.goals[goal].steps if outcome is not None else None
        return math.inf if steps is None else steps

    def _complete(self, number: int, done: Done) -> bool:
        return all((self.global_size, SEARCH, i, self.seed) in done for i in range(number))

    @property
    def _points_seed(self) -> int:
        return self.seed * 1_000_003 + self.global_size
