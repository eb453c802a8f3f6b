"""How often the host waits for the device in a step, counted by torch's profiler.

Calls of the CUDA runtime in which the host waits, and copies from the device to the host, in steps
that are not logged and in those that are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

UNTIMED, TIMED, LOG_EVERY = 2, 10, 10

RUNTIME_WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize")  # cuda… or hip…
# what would wait, seen on the CPU
HOST_READS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")

QUIET, LOGGED = "optimizer step", "optimizer step with logging"


class StepRanges(Callback):
    """Names every optimizer step to the profiler, from the end of the one before it; to be the last
    of the callbacks.
    """

    def __init__(self) -> None:
        self.range: Any = None
        self.steps = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            return  # in the middle of an accumulation
        self.steps = trainer.global_step
        self.close()
        if UNTIMED <= trainer.global_step < UNTIMED + TIMED:
            self.range = record_function(
                LOGGED if (trainer.global_step + 1) % LOG_EVERY == 0 else QUIET
            )
            self.range.__enter__()

    def on_train_end(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.range is not None:
            self.range.__exit__(None, None, None)
            self.range = None


class Waits(NamedTuple):
    """Greatest number in one step that is not logged, and in one that is."""

    quiet: int
    logged: int


class Event(NamedTuple):
    """What is used of a profiler's event; times in µs."""

    name: str
    start: float
    end: float


def is_wait(name: str, *, on_cpu: bool) -> bool:
    """Whether the host waits for the device in this event, or a copy leaves the device.

    >>> copy = "Memcpy DtoH (Device -> Pageable)"
    >>> is_wait("cudaStreamSynchronize", on_cpu=False), is_wait(copy, on_cpu=False)
    (True, True)
    >>> is_wait("cudaLaunchKernel", on_cpu=False), is_wait("aten::_local_scalar_dense", on_cpu=True)
    (False, True)
    """
    if on_cpu:
        return name in HOST_READS
    return (
        name.endswith(RUNTIME_WAITS) or name in ("cudaMemcpy", "hipMemcpy") or "Memcpy DtoH" in name
    )


def waits_by_step(events: Sequence[Event], *, on_cpu: bool) -> Waits:
    """Waits inside the ranges that :class:`StepRanges` has named.

    Raises:
        RuntimeError: no range of either kind was recorded, or nothing of the device, so that zero
            would mean nothing.
    """
    if not on_cpu and not any("LaunchKernel" in event.name for event in events):
        raise RuntimeError("the profiler recorded no kernel of the device: is CUPTI missing?")
    waits = [event.start for event in events if is_wait(event.name, on_cpu=on_cpu)]
    found: dict[str, list[int]] = {QUIET: [], LOGGED: []}
    for step in events:
        if step.name in found:
            found[step.name].append(sum(step.start <= at <= step.end for at in waits))
    if not all(found.values()):
        raise RuntimeError(
            f"the profiler recorded {len(found[QUIET])} steps without logging and "
            f"{len(found[LOGGED])} with."
        )
    return Waits(max(found[QUIET]), max(found[LOGGED]))


def count_waits(run: Callable[[Callback], bool], *, on_cpu: bool) -> Waits | None:
    """Waits in a run of its own under the profiler; ``None`` where memory was not enough.

    Args:
        run: trains with the callback, and returns whether memory was enough.
    """
    activities = [ProfilerActivity.CPU] + ([] if on_cpu else [ProfilerActivity.CUDA])
    with profile(activities=activities, acc_events=True) as watched:
        ranges = StepRanges()
        enough = run(ranges)
        ranges.close()
    if not enough:
        return None
    events = []
    for event in watched.events():
        is_copy = event.name in (QUIET, LOGGED) and event.device_type.name != "CPU"
        if not is_copy:
            events.append(Event(event.name, event.time_range.start, event.time_range.end))
    return waits_by_step(events, on_cpu=on_cpu)
