"""The live bar of a study: its phase, batch size, goals reached and time left.

Where the output is no terminal it is a line of plain text now and then.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types

from lightning_noise.study.standing import Standing

BETWEEN_LINES = 30.0  # seconds
BAR = "{desc}: {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} runs [{elapsed}{postfix}]"


def wanted(progress: bool | None) -> bool:
    """Whether to show progress.

    With None: on a terminal, and not in continuous integration (``CI`` in the environment).
    """
    if progress is not None:
        return progress
    return sys.stderr.isatty() and not os.environ.get("CI")


class Display:
    """Shows how far a study is; this one does not."""

    def show(self, standing: Standing) -> None:
        """Shows it."""

    def close(self) -> None:
        """Ends what is shown."""


class Bar(Display):
    """A tqdm bar over the runs of a study."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def show(self, standing: Standing) -> None:
        """Moves the bar, or begins it: then it never shows a total that is not known."""
        total = max(standing.expected, standing.done)
        if self._bar is None:
            self._bar = tqdm(
                desc=self._name,
                total=total,
                initial=standing.done,
                postfix=str(standing),
                bar_format=BAR,
                dynamic_ncols=True,
            )
            return
        self._bar.total = total
        self._bar.n = standing.done
        self._bar.set_postfix_str(str(standing), refresh=True)

    def close(self) -> None:
        """Leaves the bar as it is, and ends its line."""
        if self._bar is not None:
            self._bar.close()


class Lines(Display):
    """Lines on standard error: the first, then one every half a minute, and the last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._written: float | None = None
        self._last = ""

    def show(self, standing: Standing) -> None:
        """Writes a line, if it is time."""
        now = time.monotonic()
        complete = standing.done >= standing.expected
        waits = self._written is not None and now - self._written < BETWEEN_LINES
        line = f"{self._name}: {standing.done}/{standing.expected} runs; {standing}\n"
        if line == self._last or (waits and not complete):
            return
        sys.stderr.write(line)
        sys.stderr.flush()
        self._written = now
        self._last = line


@contextmanager
def display(name: str, *, progress: bool | None) -> Iterator[Display]:
    """What shows the progress of study ``name``. A bar is closed at the end of the context."""
    shown = _display(name, progress)
    try:
        yield shown
    finally:
        shown.close()


def _display(name: str, progress: bool | None) -> Display:
    if not wanted(progress):
        return Display()
    if sys.stderr.isatty():
        return Bar(name)
    return Lines(name)
