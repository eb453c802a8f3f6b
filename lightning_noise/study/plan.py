"""What to run next at one batch size, as a pure function of what has been run.

Therefore a study that is resumed, or that has grown, gives the table of one that was run at once.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from lightning_noise.study import strips
from lightning_noise.study.goal import Goal
from lightning_noise.study.halving import Halving
from lightning_noise.study.ranking import halvings
from lightning_noise.study.replay import replay
from lightning_noise.study.settings import Search
from lightning_noise.study.space import Distributions, Parameters, as_given, points
from lightning_noise.study.state import State
from lightning_noise.study.strips import Strip
from lightning_noise.study.task import RERUN, SEARCH, Done, Outcome, RunKey, Task

# Times the fewest steps, with the same seed: what takes longer is not the best on average. It is
# five standard deviations where ln S scatters by 0.2 from seed to seed.
HOPELESS = 3.0


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """The protocol at one batch size.

    It is a search with one seed, its better half with a second one and so on (for each goal), and
    reruns of the winners with seeds that chose nothing.

    Args:
        global_size: examples in one optimizer step.
        space: ranges of the parameters at this size.
        goals: of the study.
        search: how many runs of each kind, with what seeds, and whether to prune.
        budget_steps: optimizer steps that a run may take at most.
        every: steps between validations, of which ``max_steps`` has to be a multiple (1 without
            validation).
        earlier: ranges that the study had before they were widened, oldest first.
    """

    global_size: int
    space: Distributions
    goals: tuple[Goal, ...]
    search: Search
    budget_steps: int
    every: int
    earlier: tuple[Distributions, ...] = ()

    def state(self, done: Done) -> State:
        """What follows from the runs that are done."""
        state = State(self.space)
        if not self._search(state, done):
            return state
        halving = Halving(self, state, done)
        if not halving.run():
            return state
        state.winners = halving.winners
        self.run_wave(state, self._reruns(state), done)
        return state

    def next_tasks(self, done: Done) -> list[Task]:
        """Every task that can start and has not been done; empty when all is done."""
        return self.state(done).open

    def winners(self, done: Done) -> dict[Goal, int]:
        """Goal → the search trial that won; empty until all have been compared."""
        return self.state(done).winners

    def best_steps(self, goal: Goal, done: Done) -> float | None:
        """The fewest steps of a search trial so far; None where none has reached the goal."""
        found = self.state(done).steps(goal)
        fewest = min(found.values(), default=math.inf)
        if math.isinf(fewest):
            return None
        return fewest

    def finished(self, done: Done) -> int:
        """Number of runs of the protocol that are done."""
        return len(self.state(done).outcomes)

    def expected(self, done: Done) -> int:
        """Number of runs of the entire protocol, as far as it is known yet.

        Until the goals are known to differ in their better halves, these count once.
        """
        state = self.state(done)
        if not state.open:
            return len(state.outcomes)
        runs = max(self.search.trials, len(state.points))
        winners = 1
        if state.winners:
            winners = len(set(state.winners.values()))
        else:
            for keep in halvings(self.search.trials):
                runs += keep if keep > 1 else 0
        return max(
            runs + winners * self.search.seeds,
            len(state.outcomes) + len(state.open),
        )

    def outcome(self, task: Task, done: Done) -> Outcome | None:
        """What a task has given; None where it has not been done, or was ended too early for it."""
        for number, record in enumerate(done.get(task.key, ())):
            known = (task.key, number, task.goals, task.max_steps)
            if known not in self._memo:
                self._memo[known] = replay(
                    record,
                    task.goals,
                    global_size=self.global_size,
                    max_steps=task.max_steps,
                    budget_steps=self.budget_steps,
                    early_stop=self.search.prune,
                )
            found = self._memo[known]
            if found is not None:
                return found
        return None

    def run_wave(self, state: State, tasks: list[Task], done: Done) -> bool:
        """Notes what tasks have given, and which are open; whether none is."""
        for task in tasks:
            outcome = self.outcome(task, done)
            if outcome is None:
                state.open.append(task)
            else:
                state.outcomes[task.key] = outcome
        return not state.open

    def first_check_after(self, steps: float) -> int:
        """The end of a run that shows whether a goal takes longer than ``steps``."""
        if math.isinf(steps):
            return self.budget_steps
        checks = math.floor(steps / self.every) + 2
        return min(self.budget_steps, checks * self.every)

    def _search(self, state: State, done: Done) -> bool:
        """The first rung: whether it is complete."""
        if not self._search_points(state, self._first, done):
            return False
        for strip in strips.of_user(self._spaces):
            if not self._search_strip(state, strip, done):
                return False
        for _ in range(self.search.widen):
            edges: list[tuple[str, str]] = []
            for trial in state.leaders(self.goals).values():
                edges += strips.edges_of(state.space, state.points[trial])
            limit = self.search.widen
            new = strips.of_edges(self._spaces, edges, state.strips, limit)
            for strip in new:
                state.strips.append(strip)
                state.space = strips.with_strip(state.space, strip)
                if not self._search_strip(state, strip, done):
                    return False
        return True

    def _search_strip(self, state: State, strip: Strip, done: Done) -> bool:
        if strip.number not in self._further:
            found = strip.points(self.search.trials, self._points_seed)
            self._further[strip.number] = found
        return self._search_points(state, self._further[strip.number], done)

    def _search_points(self, state: State, new: dict[int, Parameters], done: Done) -> bool:
        """Runs them in waves: whether all are done."""
        state.points |= new
        trials = list(new)
        wave = self.search.wave
        for begin in range(0, len(trials), wave):
            cap = self._cap(state)
            tasks = [self._task(state, trial, cap) for trial in trials[begin : begin + wave]]
            if not self.run_wave(state, tasks, done):
                return False
        return True

    def _cap(self, state: State) -> int:
        """Steps after which a trial no longer goes on, whatever the goal.

        That is the first check behind the slowest crossing in the better half so far, or behind
        ``HOPELESS`` times the quickest one.
        """
        if not self.search.prune:
            return self.budget_steps
        keep = next(halvings(self.search.trials))
        slowest = 0.0
        for goal in self.goals:
            found = sorted(state.steps(goal).values())
            out = HOPELESS * min(found, default=math.inf)
            if len(found) >= keep:
                out = min(out, found[keep - 1])
            slowest = max(slowest, out)
        return self.first_check_after(slowest)

    def _task(self, state: State, trial: int, cap: int) -> Task:
        return Task(
            global_size=self.global_size,
            phase=SEARCH,
            trial=trial,
            seed=self.search.seed,
            parameters=as_given(state.points[trial]),
            max_steps=cap,
            goals=self.goals,
        )

    def _reruns(self, state: State) -> list[Task]:
        won: dict[int, list[Goal]] = {}
        for goal, trial in state.winners.items():
            won.setdefault(trial, []).append(goal)
        tasks = []
        for winner, goals in won.items():
            for fresh in range(1, self.search.seeds + 1):
                task = Task(
                    global_size=self.global_size,
                    phase=RERUN,
                    trial=winner,
                    seed=self.search.seed + fresh,
                    parameters=as_given(state.points[winner]),
                    max_steps=self.budget_steps,
                    goals=tuple(goals),
                )
                tasks.append(task)
        return tasks

    @property
    def _spaces(self) -> tuple[Distributions, ...]:
        return *self.earlier, self.space

    @cached_property
    def _memo(self) -> dict[tuple[RunKey, int, tuple[Goal, ...], int], Outcome | None]:
        return {}

    @cached_property
    def _first(self) -> dict[int, Parameters]:
        found = points(self._spaces[0], self.search.trials, self._points_seed)
        return dict(enumerate(found))

    @cached_property
    def _further(self) -> dict[int, dict[int, Parameters]]:
        return {}

    @property
    def _points_seed(self) -> int:
        return self.search.seed * 1_000_003 + self.global_size
