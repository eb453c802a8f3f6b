"""Restores the global random state after code that draws from it."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restores the global random state of torch (CUDA included), Python and, where it is loaded,
    NumPy.
    """
    numpy = sys.modules.get("numpy")
    python = random.getstate()
    arrays = None
    if numpy is not None:
        arrays = numpy.random.get_state()
    on_host = torch.get_rng_state()
    on_devices = _device_states()
    try:
        yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(arrays)
        torch.set_rng_state(on_host)
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)


def _device_states() -> list[torch.Tensor]:
    if not torch.cuda.is_initialized():
        return []
    return torch.cuda.get_rng_state_all()
