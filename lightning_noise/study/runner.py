"""Runs tasks in worker processes, or in this one.

A worker that dies is replaced, and its task is done again.
"""

import os
import pickle
import signal
import threading
import traceback
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, Protocol

from lightning_noise.study.loading import load, sources
from lightning_noise.study.task import Recipe, Record, RunKey, Task
from lightning_noise.study.timing import run_timed

PATIENCE = 10.0  # seconds that an idle worker has to end by itself
ATTEMPTS = 3  # a task that has killed this many workers is not tried again


class TrialError(RuntimeError):
    """A run raised an error or could not be finished."""


class Runner(Protocol):
    """Takes tasks and returns their outcomes."""

    @property
    def free(self) -> int:
        """How many more tasks it can take."""
        ...

    def submit(self, task: Task) -> None:
        """Starts a task."""
        ...

    def wait(self, timeout: float | None = None) -> list[tuple[Task, Record]]:
        """Waits until at least one task is done, or for ``timeout`` seconds."""
        ...


class Here:
    """Runs one task at a time in this process."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._task: Task | None = None

    @property
    def free(self) -> int:
        """1, or 0 while a task waits."""
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        """Keeps the task for ``wait``."""
        self._task = task

    def wait(self, timeout: float | None = None) -> list[tuple[Task, Record]]:
        """Runs it, however long it takes."""
        task = self._task
        self._task = None
        if task is None:
            return []
        try:
            outcome = run_timed(self._recipe, task)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise TrialError(failed(task, reason)) from error
        return [(task, outcome)]


class Worker:
    """A process, the pipe to it, and its current task."""

    def __init__(self, payload: bytes) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_work,
            args=(theirs,),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        with suppress(OSError):  # it died at once: noticed when its answer is waited for
            self.pipe.send_bytes(payload)

    def give(self, task: Task) -> None:
        """Starts a task."""
        self.task = task
        with suppress(OSError):
            self.pipe.send(task)


class Pool:
    """A fixed number of spawned processes, each with one task at a time."""

    def __init__(self, recipe: Recipe, workers: int) -> None:
        self._payload = packed(recipe)
        self._attempts: dict[RunKey, int] = {}
        self._workers = []
        for _ in range(workers):
            self._workers.append(Worker(self._payload))

    def _idle(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is None]

    @property
    def free(self) -> int:
        """Number of workers without a task."""
        return len(self._idle())

    def submit(self, task: Task) -> None:
        """Gives a task to a worker without one."""
        worker = self._idle()[0]
        worker.give(task)

    def wait(self, timeout: float | None = None) -> list[tuple[Task, Record]]:
        """Waits until a worker answers or dies; a dead one is replaced."""
        busy = {}
        for worker in self._workers:
            if worker.task is not None:
                busy[worker.pipe] = worker
        done = []
        for pipe in connection.wait(list(busy), timeout):
            worker = busy[pipe]  # type: ignore[index]  # wait() gives back what it got
            answer = self._answer(worker)
            if answer is not None and worker.task is not None:
                done.append((worker.task, answer))
                worker.task = None
        return done

    def _answer(self, worker: Worker) -> Record | None:
        task = worker.task
        if task is None:
            return None
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker, task)
            return None
        if isinstance(answer, str):
            raise TrialError(failed(task, answer))
        return answer  # type: ignore[no-any-return]  # unpickled

    def _replace(self, worker: Worker, task: Task) -> None:
        worker.process.join()
        worker.pipe.close()
        self._attempts[task.key] = self._attempts.get(task.key, 0) + 1
        if self._attempts[task.key] == ATTEMPTS:
            code = worker.process.exitcode
            reason = f"its process died {ATTEMPTS} times, the last time with exit code {code}"
            raise TrialError(
                f"{failed(task, reason)}. Out of memory, or a script that runs the study outside "
                "of `if __name__ == '__main__':`? Finished runs are kept; run the study again to "
                "continue."
            )
        fresh = Worker(self._payload)
        fresh.give(task)
        self._workers[self._workers.index(worker)] = fresh

    def close(self) -> None:
        """Ends all processes: an idle one by closing its pipe, a busy one by killing it.

        One is still busy after an error or Ctrl-C.
        """
        for worker in self._workers:
            worker.pipe.close()
            if worker.task is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.process.join()


def packed(recipe: NamedTuple) -> bytes:
    """A recipe for other processes, with the files that they have to load first.

    Raises:
        TrialError: it holds what cannot be sent.
    """
    try:
        return pickle.dumps((sources(), pickle.dumps(recipe)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrialError(
            "Define make_module and make_data at the top of a module (no lambda, no function "
            "inside a function), or train in this process with workers=Workers(count=0): with "
            "trainer_options they are sent to worker processes, so they must be picklable "
            f"({error})."
        ) from error


def unpacked(payload: bytes) -> Any:
    """The recipe, in the process that it was sent to."""
    files, recipe = pickle.loads(payload)
    for file in files:
        load(file)
    return pickle.loads(recipe)


def failed(task: Task, reason: str) -> str:
    which = f"the {task.phase} run of trial {task.trial} at global size {task.global_size}"
    return f"{which} with {task.parameters} failed: {reason}"


def _work(pipe: Connection) -> None:
    """What a worker process does: tasks until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        recipe = unpacked(pipe.recv_bytes())
        while True:
            task = pipe.recv()
            try:
                pipe.send(run_timed(recipe, task))
            except Exception:  # of any kind: the parent reports it
                pipe.send(traceback.format_exc())
    except (EOFError, OSError):
        return


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
