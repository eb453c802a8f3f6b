"""A study whose processes are killed, and the runs that it began."""

import os
import signal
import time
from functools import partial
from pathlib import Path

from lightning_noise.study import Budget, Search
from testing import cheap

SHORT = {
    "batch_sizes": (8, 32),
    "search": Search(trials=4, seeds=2),
    "budget": Budget(examples=2048, steps=60),
}


def study(folder, storage, **changes):
    """Ten runs a size; every run leaves a line in ``folder``/runs."""
    build = partial(make_module, str(folder))
    return cheap.study(storage, make_module=build, **{**SHORT, **changes})


def make_module(folder, parameters):
    """Kills the process named in a file ``kill-<n>`` (self or parent) when the n-th run begins."""
    runs = Path(folder, "runs")
    with runs.open("ab", buffering=0) as file:
        file.write(f"{os.getpid()}\n".encode())
        end = file.tell()  # of this line: another process may have added one since
    number = runs.read_bytes()[:end].count(b"\n")
    order = Path(folder, f"kill-{number}")
    if order.exists():
        killed = os.getpid() if order.read_text() == "self" else os.getppid()
        os.kill(killed, signal.SIGKILL)
        time.sleep(60)  # until the parent's death arrives here
    return cheap.make_module(parameters)
