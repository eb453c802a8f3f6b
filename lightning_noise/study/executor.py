"""Runs tasks through an executor of ``concurrent.futures``: a process pool, Dask, a job queue."""

import threading
import traceback
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from functools import lru_cache
from sys import maxsize

from lightning_noise.study.runner import ATTEMPTS, TrialError, failed, packed, unpacked
from lightning_noise.study.task import Recipe, Record, RunKey, Task
from lightning_noise.study.timing import run_timed

# A run sets the random state and the threads of its process, so threads take turns.
_turn = threading.Lock()


class Submitted:
    """Tasks in the hands of an executor, which decides where and when they run.

    What the executor itself cannot finish (a worker that died) is given to it again.

    Args:
        executor: stays open, it belongs to the caller.
        recipe: of the runs.

    Raises:
        TrialError: the recipe cannot be sent to other processes.
    """

    def __init__(self, executor: Executor, recipe: Recipe) -> None:
        self._executor = executor
        self._payload = packed(recipe)
        self._running: dict[Future[Record | str], Task] = {}
        self._attempts: dict[RunKey, int] = {}

    @property
    def free(self) -> int:
        """The executor has its own queue."""
        return maxsize

    def submit(self, task: Task) -> None:
        """Puts a task into the executor's queue."""
        attempt = self._attempts.get(task.key, 0)
        try:
            future = self._executor.submit(do, self._payload, task, attempt)
        except RuntimeError as error:  # it was shut down, or is broken
            raise _lost(task, error) from error
        self._running[future] = task

    def wait(self, timeout: float | None = None) -> list[tuple[Task, Record]]:
        """Waits until the executor has finished a task."""
        found = []
        finished = wait(self._running, timeout, FIRST_COMPLETED).done
        for future in finished:
            task = self._running.pop(future)
            outcome = self._outcome(future, task)
            if outcome is not None:
                found.append((task, outcome))
        return found

    def close(self) -> None:
        """Cancels what has not begun."""
        for future in self._running:
            future.cancel()

    def _outcome(self, future: Future[Record | str], task: Task) -> Record | None:
        try:
            answer = future.result()
        except BrokenExecutor as error:
            raise _lost(task, error) from error
        except (Exception, CancelledError) as error:  # each executor has its own errors
            self._again(task, error)
            return None
        if isinstance(answer, str):
            raise TrialError(failed(task, answer))
        return answer

    def _again(self, task: Task, error: BaseException) -> None:
        self._attempts[task.key] = self._attempts.get(task.key, 0) + 1
        if self._attempts[task.key] == ATTEMPTS:
            reason = f"the executor gave it up {ATTEMPTS} times, the last time with {error!r}"
            raise TrialError(
                f"{failed(task, reason)}. Finished runs are kept; run the study again to continue."
            ) from error
        self.submit(task)


def do(
    payload: bytes,
    task: Task,
    attempt: int,  # noqa: ARG001 # see below
) -> Record | str:
    """What the executor calls in its own process: the outcome, or the text of an error.

    ``attempt`` makes every call another one: Dask answers a call that it knows with what the first
    one gave, an error too.
    """
    with _turn:
        try:
            return run_timed(_recipe(payload), task)
        except Exception:  # of any kind: the process of the study reports it
            return traceback.format_exc()


@lru_cache(maxsize=4)
def _recipe(payload: bytes) -> Recipe:
    recipe: Recipe = unpacked(payload)
    return recipe


def _lost(task: Task, error: BaseException) -> TrialError:
    return TrialError(
        "Run the study again with a new executor: this one takes no more tasks "
        f"({type(error).__name__}: {error}), and {failed(task, 'it was not finished')}. Finished "
        "runs are kept."
    )
