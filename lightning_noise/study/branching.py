"""Trains branches one after the other, or in worker processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context

from lightning_noise.study.branch import Branch, BranchEnd, BranchRecipe, train_branch
from lightning_noise.study.runner import TrialError, packed, unpacked


def train_branches(
    recipe: BranchRecipe,
    branches: Sequence[Branch],
    workers: int,
) -> Iterator[tuple[Branch, BranchEnd]]:
    """Every branch with what it ended at, as they end. With 0 workers they train in this process.

    Raises:
        TrialError: a branch could not be trained, or its process died.
    """
    if workers == 0:
        for branch in branches:
            yield branch, train_branch(recipe, branch)
        return
    payload = packed(recipe)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        running = {pool.submit(_train, payload, branch): branch for branch in branches}
        for future in as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool as error:
        raise TrialError(
            "Run the check again with fewer workers, or with workers=Workers(count=0): a worker "
            "process died. Out of memory, or a script that runs the check outside of "
            "`if __name__ == '__main__':`?"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _train(payload: bytes, branch: Branch) -> BranchEnd:
    return train_branch(_recipe(payload), branch)


@lru_cache(maxsize=1)
def _recipe(payload: bytes) -> BranchRecipe:
    recipe: BranchRecipe = unpacked(payload)
    return recipe
