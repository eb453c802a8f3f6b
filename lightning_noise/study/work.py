"""The work on a study: tasks that are free are taken, run, and what they leave is stored."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from lightning_noise.study.claims import Claims
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.runner import Runner
from lightning_noise.study.storage import Shelf
from lightning_noise.study.task import Record, RunKey, Task

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
        self.done: dict[RunKey, tuple[Record, ...]] = {}
        self.plans = plans
        self._plan = {plan.global_size: plan for plan in plans}
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

    def finished(self) -> int:
        """Number of runs of the study that are done."""
        return sum(plan.finished(self.done) for plan in self.plans)

    def take(self, task: Task) -> bool:
        """Claims a task, unless another process has it or has done it."""
        return self._claims.patiently(lambda: self._take(task))

    def keep(self, task: Task, record: Record) -> None:
        """Stores what a run left, unless another process has the task by now.

        Raises:
            StorageError: the storage was out of reach for too long, or may no longer be written.
        """
        self._claims.patiently(lambda: self._keep(task, record))

    def refresh(self) -> None:
        """Reads what other processes have stored."""
        if self._claims.shared:
            self._claims.patiently(self._load_open)

    def _take(self, task: Task) -> bool:
        if not self._claims.claim(task.key):
            return False
        if self._claims.shared:  # it may have been done since the last look
            self._load(task.global_size)
        if self._plan[task.global_size].outcome(task, self.done) is not None:
            self._claims.release(task.key)
            return False
        return True

    def _keep(self, task: Task, record: Record) -> None:
        if not self._take(task):
            self._claims.release(task.key)
            return
        done = {task.key: (*self.done.get(task.key, ()), record)}
        outcome = self._plan[task.global_size].outcome(task, done)
        if outcome is None:
            raise AssertionError(f"{task.key} left less than it was to do: {record.trained} steps")
        with self._claims.holding(task.key):
            self._shelves[task.global_size].keep(task, record, outcome)
        self.done |= done
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
        for task, record in _finished(runner, running, desk.poll):
            running.discard(task.key)
            desk.keep(task, record)
        desk.refresh()


def _finished(
    runner: Runner,
    running: set[RunKey],
    poll: float | None,
) -> list[tuple[Task, Record]]:
    if running:
        return runner.wait(poll)
    time.sleep(POLL)  # all open tasks are in other hands
    return []
