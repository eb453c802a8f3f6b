"""The one way that tests start several processes: gloo on CPU, a hard timeout, results back as
plain values.

Lightning's Trainer takes the processes for those of torchrun, so ``devices=N`` with any DDP
strategy starts no others.
"""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from testing.installed import read_once

ROOT = Path(__file__).parent.parent
# The variable by which coverage lets the processes that a test starts measure themselves.
FOR_PROCESSES = "COVERAGE_PROCESS_CONFIG"


def launch(target: str, world_size: int, folder: Path, timeout: float = 240.0) -> list[Any]:
    """Runs ``module:function`` in ``world_size`` processes; what each returned, by rank.

    Every process is killed when one fails or when time is up (SIGKILL: Lightning catches SIGTERM).
    Only rank 0 is measured by coverage.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world_size):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [
            sys.executable,
            "-c",
            "import gc; gc.disable(); from testing.launch import work; work()",
            target,
            str(folder / f"{rank}.pt"),
        ]
        if rank > 0:  # what they run, rank 0 runs too
            environment.pop(FOR_PROCESSES, None)
        log = (folder / f"{rank}.log").open("wb")
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
            )
        )
        log.close()
    deadline = time.monotonic() + timeout
    while any(p.poll() is None for p in processes):
        if time.monotonic() > deadline or any(p.poll() not in (None, 0) for p in processes):
            break
        time.sleep(0.1)
    for p in processes:
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
        p.wait()
    if any(p.returncode != 0 for p in processes):
        logs = "\n".join(
            f"--- rank {r}\n{(folder / f'{r}.log').read_text()[-6000:]}" for r in range(world_size)
        )
        raise AssertionError(
            f"{target} failed or ran past {timeout} s: exit codes "
            f"{[p.returncode for p in processes]}\n{logs}"
        )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def work() -> None:
    """What each process does, begun without the collector of garbage: a sixth of an import is its
    search, which finds none.
    """
    warnings.filterwarnings("ignore")
    module, function = sys.argv[1].split(":")
    torch.set_num_threads(1)
    read_once()
    target = getattr(importlib.import_module(module), function)
    gc.enable()
    result = target()
    torch.save(result, sys.argv[2])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
