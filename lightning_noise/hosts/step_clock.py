"""Durations of optimizer steps, taken without waiting for the device."""

import time
from collections import deque

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


class StepClock:
    """Times whole optimizer steps, from the end of one to the end of the next.

    That includes what a step waits for, such as the loading of its data. On CUDA the marks are
    events in the stream, which are read by :meth:`read`; elsewhere the clock of the host is used.

    Args:
        device: that computes.

    >>> clock = StepClock(torch.device("cpu"))
    >>> for _ in range(SETTLE + 3):
    ...     clock.step_done()
    >>> len(clock.read()), len(clock.read())
    (2, 0)
    """

    def __init__(self, device: torch.device) -> None:
        self._mark: type[HostMark] | type[CudaMark] = HostMark
        if device.type == "cuda":
            self._mark = CudaMark
        self._latest: HostMark | CudaMark | None = None
        self._pairs: deque[tuple[HostMark | CudaMark, HostMark | CudaMark]] = deque(maxlen=KEPT)
        self._unsettled = SETTLE

    def step_done(self) -> None:
        """An optimizer step has ended."""
        if self._unsettled > 0:
            self._unsettled -= 1
            return
        now = self._mark()
        if self._latest is not None:
            self._pairs.append((self._latest, now))
        self._latest = now

    def interrupt(self) -> None:
        """What happens until the next step ends is no step alone: validation, a checkpoint."""
        self._latest = None

    def change(self) -> None:
        """Steps are of another kind from here on; forgets those not yet read."""
        self._pairs.clear()
        self._latest = None
        self._unsettled = SETTLE

    def read(self) -> list[float]:
        """Seconds of the latest steps since the last call, oldest first."""
        seconds = []
        for before, after in self._pairs:
            seconds.append(after.seconds_since(before))  # type: ignore[arg-type]  # of one kind
        self._pairs.clear()
        return seconds
