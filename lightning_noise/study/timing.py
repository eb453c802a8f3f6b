"""Runs are timed in the process that trains them: what waits for a process does not count."""

import time

from lightning_noise.report.terms import SECONDS
from lightning_noise.study.task import Recipe, Record, Task
from lightning_noise.study.trial import run


def run_timed(recipe: Recipe, task: Task) -> Record:
    """Does ``task`` in this process, with its time among what it measured."""
    begin = time.perf_counter()
    record = run(recipe, task)
    seconds = time.perf_counter() - begin
    return record._replace(noise={**record.noise, SECONDS: seconds})
