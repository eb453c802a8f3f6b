"""Runs are timed in the process that trains them: what waits for a process does not count."""

import time

from lightning_noise.report.terms import SECONDS
from lightning_noise.study.task import Outcome, Recipe, Task
from lightning_noise.study.trial import run


def run_timed(recipe: Recipe, task: Task) -> Outcome:
    """Does ``task`` in this process, with its time among what it measured."""
    begin = time.perf_counter()
    outcome = run(recipe, task)
    seconds = time.perf_counter() - begin
    return outcome._replace(noise={**outcome.noise, SECONDS: seconds})
