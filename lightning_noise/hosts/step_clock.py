"""Durations of optimizer steps, taken without waiting for the device."""

import time
from collections import deque
from typing import NamedTuple

import torch

KEPT = 64  # the latest durations; older ones are forgotten
SETTLE = 3  # the first steps after a change allocate, compile and choose kernels: not timed


class HostMark:
    """A moment on the clock of the host, for devices whose work is done when a call returns."""

    def __init__(self) -> None:
        self._seconds = time.perf_counter()

    def seconds_since(self, earlier: "HostMark") -> float:
        """Seconds from an earlier mark to this one."""
        return self._seconds - earlier._seconds


class CudaMark:
    """A moment in the stream of a CUDA device; the device passes it later than the host."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def seconds_since(self, earlier: "CudaMark") -> float:
        """Seconds from an earlier mark to this one; waits until the device has passed both."""
        self._event.synchronize()
        return float(earlier._event.elapsed_time(self._event)) / 1000


class Durations(NamedTuple):
    """Seconds of the latest steps, oldest first.

    Args:
        measured: of those whose gradients were measured.
        others: of those that were not.
    """

    measured: list[float]
    others: list[float]


class _Pair(NamedTuple):
    """The marks at both ends of a step."""

    before: HostMark | CudaMark
    after: HostMark | CudaMark
    measured: bool


class StepClock:
    """Times whole optimizer steps, from the end of one to the end of the next.

    That includes what a step waits for, such as the loading of its data. On CUDA the marks are
    events in the stream, which are read by :meth:`read`; elsewhere the clock of the host is used.

    Args:
        device: that computes.

    >>> clock = StepClock(torch.device("cpu"))
    >>> for number in range(SETTLE + 4):
    ...     clock.step_done(measured=number == SETTLE + 1)
    >>> found = clock.read()
    >>> len(found.measured), len(found.others), clock.read()
    (1, 2, Durations(measured=[], others=[]))
    """

    def __init__(self, device: torch.device) -> None:
        self._mark: type[HostMark] | type[CudaMark] = HostMark
        if device.type == "cuda":
            self._mark = CudaMark
        self._latest: HostMark | CudaMark | None = None
        self._pairs: deque[_Pair] = deque(maxlen=KEPT)
        self._unsettled = SETTLE

    def step_done(self, *, measured: bool = True) -> None:
        """An optimizer step has ended, in which the gradients were measured or not."""
        if self._unsettled > 0:
            self._unsettled -= 1
            return
        now = self._mark()
        if self._latest is not None:
            self._pairs.append(_Pair(self._latest, now, measured))
        self._latest = now

    def interrupt(self) -> None:
        """What happens until the next step ends is no step alone: validation, a checkpoint."""
        self._latest = None

    def change(self) -> None:
        """Steps are of another kind from here on; forgets those not yet read."""
        self._pairs.clear()
        self._latest = None
        self._unsettled = SETTLE

    def read(self) -> Durations:
        """Seconds of the latest steps since the last call."""
        found = Durations([], [])
        for pair in self._pairs:
            seconds = pair.after.seconds_since(pair.before)  # type: ignore[arg-type]  # of one kind
            kind = found.measured if pair.measured else found.others
            kind.append(seconds)
        self._pairs.clear()
        return found
