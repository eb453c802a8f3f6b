"""What is installed does not change while tests run."""

import functools
import sys
from importlib import metadata

READERS = ("lightning.fabric.utilities.registry", "lightning_fabric.utilities.registry")


def read_once() -> None:
    """Keeps the entry points of all packages, which Lightning reads anew for every Trainer.

    That is a seventh of the time of a short fit.
    """
    entry_points = functools.cache(metadata.entry_points)
    metadata.entry_points = entry_points
    for name in READERS:
        if name in sys.modules:  # imported before, with the function that reads anew
            sys.modules[name].entry_points = entry_points
