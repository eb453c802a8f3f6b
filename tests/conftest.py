"""One thread: the tensors of the tests are small, and threads that wait for each other on busy
cores cost most of the time.
"""

import contextlib
import gc
import os
import sys

import pytest
import torch

from testing.installed import read_once
from testing.launch import FOR_PROCESSES

torch.set_num_threads(1)
read_once()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights that a test does not seed itself are the same in every order of the tests."""
    torch.manual_seed(0)


def pytest_collection_finish():
    """A Trainer collects garbage after every fit. What is imported by then is left out of that: it
    is never garbage, and looking through it took a third of the time of a short fit.
    """
    gc.collect()
    gc.freeze()


def current_coverage():
    coverage = sys.modules.get("coverage")  # the environment of `make floors` has none
    return None if coverage is None else coverage.Coverage.current()


@contextlib.contextmanager
def without_coverage():
    """A process of xdist is measured twice: as one that was started, and by pytest-cov."""
    stopped = []
    while (measuring := current_coverage()) is not None:
        measuring.stop()
        stopped.append(measuring)
    settings = os.environ.pop(FOR_PROCESSES, None)
    try:
        yield
    finally:
        for measuring in reversed(stopped):
            measuring.start()
        if settings is not None:
            os.environ[FOR_PROCESSES] = settings


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """A slow test is traced only where it is marked so: tracing nearly doubles the time of a short
    fit, and most lines that slow tests reach are reached by fast ones.
    """
    marked = {mark.name for mark in item.iter_markers()}
    if "slow" in marked and "traced" not in marked:
        with without_coverage():
            return (yield)
    return (yield)
