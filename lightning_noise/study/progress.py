"""The live bar: runs done, the best so far, time left."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types


def wanted(progress: bool | None) -> bool:
    """Whether to show a bar.

    With None: on a terminal, and not in continuous integration (``CI`` in the environment).
    """
    if progress is not None:
        return progress
    return sys.stderr.isatty() and not os.environ.get("CI")


class Bar:
    """A tqdm bar over the runs of a study, or nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, done: int, expected: int, best: Mapping[int, float]) -> None:
        """Shows runs done, how many are expected, and the fewest steps so far by batch size."""
        if self._bar is None:
            return
        self._bar.total = max(expected, done)
        self._bar.n = done
        texts = [f"{size}:{steps:.0f}" for size, steps in best.items()]
        self._bar.set_postfix_str(f"best {' '.join(texts)}", refresh=True)


@contextmanager
def bar(
    name: str,
    done: int,
    expected: int,
    *,
    progress: bool | None,
) -> Iterator[Bar]:
    """The bar of study ``name``, of which ``done`` runs were found in the storage.

    It is closed at the end of the context.
    """
    if not wanted(progress):
        yield Bar(None)
        return
    with tqdm(total=expected, initial=done, desc=name, unit="run", dynamic_ncols=True) as shown:
        yield Bar(shown)
