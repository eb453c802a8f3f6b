"""Benchmarks in several processes: gloo on the CPU, settings in, rows of rank 0 out."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testing.launch import launch

SETTINGS = "LIGHTNING_NOISE_BENCHMARK"


def in_processes(target: str, ranks: int, given: Mapping[str, Any], timeout: float = 3600) -> Any:
    """What ``module:function`` returns on each rank, by rank; it reads what is given by
    :func:`settings`.
    """
    os.environ[SETTINGS] = json.dumps(given)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return launch(target, ranks, Path(folder), timeout=timeout)
    finally:
        del os.environ[SETTINGS]


def settings() -> dict[str, Any]:
    """What the parent process has given to this one."""
    return json.loads(os.environ[SETTINGS])
