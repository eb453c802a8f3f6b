"""What the callback adds to the peak memory of a run, in the variants of ``overhead``.

Peak resident memory of five steps in a process of their own, all libraries included. Variants run
in turn, so that nothing that changes with time is taken for a difference. By itself glibc raises
the size above which a freed block goes back to the system, and the peak varies by 1 % from run to
run; *settled* pins ``MALLOC_MMAP_THRESHOLD_``, and the peak is what the tensors need.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightning.pytorch.callbacks import Callback

from benchmarks.cost.overhead import BY_NAME, SIZES, VARIANTS, train
from benchmarks.harness.machine import in_own_process, own_peak
from benchmarks.harness.rounds import median_of
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import markdown, number_cell

STEPS = 5


class Peak(NamedTuple):
    """Of one process, MiB."""

    run: int
    settled: bool
    variant: str
    mebibytes: float


def peak_of(name: str, size_name: str) -> float:
    """Peak memory of this process, which must have trained nothing before."""
    size = SIZES[size_name]
    train(BY_NAME[name], size.model(), size, STEPS, Callback())
    return own_peak()


def peak_alone(name: str, options: "Options", *, settled: bool) -> float:
    """The same in a process of its own."""
    target = "benchmarks.cost.overhead_memory:peak_of"
    number = options.threads
    return float(in_own_process(target, name, options.size, number=number, settled=settled))


def measure(options: "Options", done: Done) -> Iterator[list[Peak]]:
    """The variants in turn, with and without the allocator settled."""
    allocators = [name == "settled" for name in options.allocators]
    for run, settled, name in itertools.product(range(options.runs), allocators, options.variants):
        if (run, settled, name) not in done:
            yield [Peak(run, settled, name, peak_alone(name, options, settled=settled))]


def table(rows: Sequence[Peak]) -> str:
    """Peaks, and their ratios to the baseline."""
    lines = []
    for variant in VARIANTS:
        cells = []
        for settled in (False, True):
            mine, base = (
                median_of([r.mebibytes for r in rows if (r.variant, r.settled) == (name, settled)])
                for name in (variant.name, variant.baseline)
            )
            cells.append(number_cell(mine.median, ".0f"))
            cells.append(number_cell(mine.median / base.median, ".3f"))
        runs = len({row.run for row in rows if row.variant == variant.name})
        lines.append((variant.name, str(runs), *cells))
    head = ("variant", "runs", "peak memory, MiB", "ratio", "settled allocator, MiB", "ratio")
    return markdown(head, lines)


NAMES = tuple(BY_NAME)
ALLOCATORS = ("as it is", "settled")


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    runs: int = option(5, "processes for each variant and allocator", extends=True)
    variants: tuple[str, ...] = option(NAMES, "to run", extends=True, choices=NAMES)
    allocators: tuple[str, ...] = option(ALLOCATORS, "to use", extends=True, choices=ALLOCATORS)
    size: str = option("whole", "of the model", choices=tuple(SIZES))


BENCHMARK = Benchmark(
    name="overhead_memory",
    question="What does the callback add to the peak memory of a run?",
    about=__doc__,
    row=Peak,
    key=("run", "settled", "variant"),
    measure=measure,
    options=Options(),
    quick=Options(runs=1, variants=NAMES[:1], allocators=ALLOCATORS[1:], size="tiny"),
    tables={"overhead memory": table},
    minutes=10,
)
