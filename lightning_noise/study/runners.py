"""The runner that a study asks for: this process, its own worker processes, or an executor."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from lightning_noise.study.executor import Submitted
from lightning_noise.study.runner import Here, Pool, Runner
from lightning_noise.study.task import Recipe


@contextmanager
def started(
    recipe: Recipe,
    workers: int,
    executor: Executor | None = None,
) -> Iterator[Runner]:
    """A runner with this many worker processes, which end with the context.

    With 0, tasks are run in this process. An executor is used instead of both.
    """
    if executor is None and workers == 0:
        yield Here(recipe)
        return
    runner: Pool | Submitted
    runner = Pool(recipe, workers) if executor is None else Submitted(executor, recipe)
    try:
        yield runner
    finally:
        runner.close()
