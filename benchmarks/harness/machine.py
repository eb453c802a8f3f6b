"""What times were taken on, without names; and what a process weighs."""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.harness.spec import HOME, RESULTS, Benchmark


class Machine(NamedTuple):
    """A line of ``machines.csv``: where the rows of a benchmark were measured."""

    benchmark: str
    cpu: str
    cores: int
    architecture: str
    memory_gib: int
    threads: int
    python: str
    torch: str
    lightning: str
    accelerator: str = ""

    def __str__(self) -> str:
        named = f"{self.cores} cores ({self.cpu or self.architecture}), {self.memory_gib} GiB"
        where = f"{self.accelerator}, {named}" if self.accelerator else named
        return (
            f"{where}, torch {self.torch} with threads = {self.threads}, lightning "
            f"{self.lightning}, Python {self.python}"
        )


def this_machine(benchmark: str) -> Machine:
    """What runs now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = ""
    if torch.cuda.is_available():
        accelerator = torch.cuda.get_device_name()
    return Machine(
        benchmark,
        cpu_model(),
        os.cpu_count() or 0,
        platform.machine(),
        round(memory),
        torch.get_num_threads(),
        platform.python_version(),
        torch.__version__,
        version("lightning"),
        accelerator,
    )


def cpu_model() -> str:
    """As the kernel names it; "" where it does not."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def load_average() -> float:
    """Mean number of processes that wanted a core in the last minute; NaN where it is unknown."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return math.nan


@contextmanager
def threads(number: int) -> Iterator[None]:
    """With so many threads of torch. More than cores wait for each other, and make minutes of
    seconds.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def no_rows(*_: object) -> list[Machine]:
    """Machines are noted beside other rows, and measured by nobody."""
    return []


MACHINES = Benchmark(
    name="machines",
    question="",
    about="",
    row=Machine,
    key=("benchmark",),
    measure=no_rows,
    options=None,
    quick=None,
    tables={},
    minutes=0,
    order=lambda machine: machine.benchmark,
)
PATH = RESULTS / "machines.csv"


def own_peak() -> float:
    """Peak resident memory of this process, MiB.

    Not ru_maxrss: Linux hands that on through exec, so a child never shows less than the parent
    that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_own_process(target: str, *arguments: str, number: int = 1, settled: bool = True) -> str:
    """What ``module:function`` prints, called with texts in a process that has done nothing else.

    By itself glibc raises the size above which a block is given back to the system as it goes, and
    the peak then varies by 1 % from run to run. ``settled`` pins it, and the peak is what the
    tensors need. ``number`` of threads.
    """
    module, _, function = target.partition(":")
    code = f"import sys; from {module} import {function}; print({function}(*sys.argv[1:]))"
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072"} if settled else {}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=HOME,
        env=os.environ | {"PYTHONPATH": str(HOME), "OMP_NUM_THREADS": str(number)} | allocator,
    )
    return done.stdout.strip().splitlines()[-1]
