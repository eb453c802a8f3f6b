"""What would wait for the device on an accelerator, counted on the CPU.

The variants are those of ``overhead``. Operators that give the host a number are counted by a
dispatch mode, and methods that copy a tensor to the host by a function mode, as on the CPU they
need no operator. Waits of a real device are counted by the profiler in ``gpu``.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cost.overhead import BASELINE, SIZES, VARIANTS, Size, train
from benchmarks.harness.lightning_runs import Variant
from benchmarks.harness.spec import Benchmark, Done
from benchmarks.harness.tables import markdown

STEPS = 22  # of which the 10th and the 20th are log steps

_READING_METHODS = {Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__, Tensor.__contains__}
_READING_OPERATORS = {
    torch.ops.aten._local_scalar_dense.default,  # under item(), float(), int(), bool(), `if tensor`
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
}


class _Methods(TorchFunctionMode):
    """Counts methods that copy a tensor to the host. On the CPU they do so without any operator."""

    def __init__(self, counter: "HostReads") -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counter.now += func in _READING_METHODS
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Counts operators that would wait for the device."""

    def __init__(self, counter: "HostReads") -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counter.now += func in _READING_OPERATORS
        return func(*args, **(kwargs or {}))


class HostReads(Callback):
    """Counts, for each optimizer step, what would wait for the device on an accelerator; to be the
    last of the callbacks.

    A read in the loop between two steps belongs to the second one.
    """

    def __init__(self) -> None:
        self.now = 0
        self.by_step: list[int] = []

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        with _Methods(self), _Operators(self):
            yield

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step > len(self.by_step):
            self.by_step.append(self.now)
            self.now = 0


class Reads(NamedTuple):
    """Reads beyond those of the baseline: the greatest number in a step that Lightning does not log
    and in one that it does.
    """

    variant: str
    quiet: int
    log: int


def reads_by_step(variant: Variant, size: Size) -> list[int]:
    """Host reads in each step."""
    reads = HostReads()
    with reads.counting():
        train(variant, size.model(), size, STEPS, reads)
    return reads.by_step


def extra_reads(name: str, of_variant: Sequence[int], of_baseline: Sequence[int]) -> Reads:
    """The difference, step by step."""
    quiet, log = [0], [0]
    for number, (mine, base) in enumerate(zip(of_variant, of_baseline, strict=True)):
        (log if number % 10 == 9 else quiet).append(mine - base)
    return Reads(name, max(quiet), max(log))


def measure(_: "Options", done: Done) -> Iterator[list[Reads]]:
    """Each variant beside the baseline."""
    size = SIZES["tiny"]  # how often a tensor is read does not depend on its size
    base = reads_by_step(VARIANTS[0], size)
    for variant in VARIANTS:
        if variant.name != BASELINE and (variant.name,) not in done:
            yield [extra_reads(variant.name, reads_by_step(variant, size), base)]


def table(rows: Sequence[Reads]) -> str:
    """Reads added."""
    head = ("variant", "reads added in a step without logging", "with logging")
    return markdown(head, [(row.variant, str(row.quiet), str(row.log)) for row in rows])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Nothing."""


BENCHMARK = Benchmark(
    name="host_reads",
    question="How often does the callback read from the device?",
    about=__doc__,
    row=Reads,
    key=("variant",),
    measure=measure,
    options=Options(),
    quick=Options(),
    tables={"host reads": table},
    minutes=0.2,
)
