"""The work on a study: tasks that are free are taken, run, and their outcomes are stored."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from lightning_noise.study.claims import Claims
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.runner import Runner
from lightning_noise.study.storage import Shelf
from lightning_noise.study.task import Outcome, RunKey, Task

POLL = 1.0  # seconds between two looks at what other processes have stored


class Desk:
    """What is done of a study, what is open, and what this process may do.

    Args:
        plans: of all batch sizes.
        shelves: batch size → its stored runs.
        claims: who runs what.
    """

    def __init__(
        self,
        plans: Sequence[SizePlan],
        shelves: Mapping[int, Shelf],
        claims: Claims,
    ) -> None:
        self.done: dict[RunKey, Outcome] = {}
        self.plans = plans
        self._shelves = shelves
        self._claims = claims
        claims.patiently(self._load_open)

    @property
    def poll(self) -> float | None:
        """Seconds after which to look again at what others have stored; None: there are none."""
        if self._claims.shared:
            return POLL
        return None

    def open_tasks(self) -> list[Task]:
        """Every task that can start and has not been done."""
        tasks: list[Task] = []
        for plan in self.plans:
            tasks += plan.next_tasks(self.done)
        return tasks

    def take(self, task: Task) -> bool:
        """Claims a task, unless another process has it or has done it."""
        return self._claims.patiently(lambda: self._take(task))

    def keep(self, task: Task, outcome: Outcome) -> None:
        """Stores an outcome, unless another process has the task by now.

        Raises:
            StorageError: the storage was out of reach for too long, or may no longer be written.
        """
        self._claims.patiently(lambda: self._keep(task, outcome))

    def refresh(self) -> None:
        """Reads what other processes have stored."""
        if self._claims.shared:
            self._claims.patiently(self._load_open)

    def _take(self, task: Task) -> bool:
        if not self._claims.claim(task.key):
            return False
        if self._claims.shared:  # it may have been done since the last look
            self._load(task.global_size)
        if task.key in self.done:
            self._claims.release(task.key)
            return False
        return True

    def _keep(self, task: Task, outcome: Outcome) -> None:
        if not self._take(task):
            self._claims.release(task.key)
            return
        with self._claims.holding(task.key):
            self._shelves[task.global_size].keep(task, outcome)
        self.done[task.key] = outcome
        self._claims.release(task.key)

    def _load_open(self) -> None:
        for plan in self.plans:
            if plan.next_tasks(self.done):
                self._load(plan.global_size)

    def _load(self, global_size: int) -> None:
        self.done |= self._shelves[global_size].load()


def work(
    desk: Desk,
    runner: Runner,
    report: Callable[[Collection[RunKey]], None],
) -> None:
    """Works until every run of the study is done, here or in another process.

    ``report`` is called with the runs that are training in this process, and at the end.
    """
    running: set[RunKey] = set()
    while True:
        tasks = desk.open_tasks()
        if not tasks:
            report(running)
            return
        for task in tasks:
            if not runner.free:
                break
            if task.key not in running and desk.take(task):
                running.add(task.key)
                runner.submit(task)
        report(running)
        for task, outcome in _finished(runner, running, desk.poll):
            running.discard(task.key)
            desk.keep(task, outcome)
        desk.refresh()


def _finished(
    runner: Runner,
    running: set[RunKey],
    poll: float | None,
) -> list[tuple[Task, Outcome]]:
    if running:
        return runner.wait(poll)
    time.sleep(POLL)  # all open tasks are in other hands
    return []
