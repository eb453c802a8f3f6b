"""What the callback costs: step time, peak memory and reads from the device, each against the same
run without it.

    python benchmarks/overhead.py --rounds 40

The unit timed is one whole optimizer step as a user of Lightning sees it: K micro-batches, the
optimizer, every hook, logging and the loop in between, from the end of one step to the end of the
next. Within a round all variants run in random order, each fit giving one untimed step and then ten
timed ones; the figure is the median over rounds of the ratio to the baseline of the same round. Ten
steps hold exactly one log step (log_every_n_steps=10, where Lightning's default is 50) and, with
every_n_steps=10, exactly one measured step.

To add a row, add a Variant; one that has other trainer options (another strategy, more devices)
names its own baseline.
"""

import argparse
import contextlib
import csv
import gc
import io
import itertools
import logging
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import GradientNoiseScale

RESULTS = Path(__file__).parent / "results" / "overhead.csv"
TIMED_STEPS = 10
BASELINE = "no callback"
Record = TypeVar("Record", bound=tuple[Any, ...])


class Variant(NamedTuple):
    """One way to train: callbacks, made afresh for each fit, options for the trainer, and the
    variant it is compared with.
    """

    name: str
    callbacks: Callable[[], list[Callback]]
    trainer_options: Mapping[str, Any] = {}
    baseline: str = BASELINE


VARIANTS = (
    Variant(BASELINE, list),
    Variant("micro_batches, every step", lambda: [GradientNoiseScale(probe="micro_batches")]),
    Variant(
        "micro_batches, every 10th step",
        lambda: [GradientNoiseScale(probe="micro_batches", every_n_steps=10)],
    ),
)


class Size(NamedTuple):
    """The training set-up: a transformer of about 12 · layers · width² parameters, and what one
    optimizer step sees.
    """

    width: int
    layers: int
    context: int
    local_size: int
    accumulation: int
    vocabulary: int = 256


WHOLE = Size(width=384, layers=6, context=128, local_size=4, accumulation=4)
TINY = Size(width=32, layers=1, context=8, local_size=2, accumulation=4)


# ---- the run that is measured -------------------------------------------------------------------


class Transformer(L.LightningModule):
    """A pre-norm language model."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.token = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Parameter(torch.zeros(size.context, size.width))
        layer = nn.TransformerEncoderLayer(
            size.width,
            max(1, size.width // 64),
            4 * size.width,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.body = nn.TransformerEncoder(
            layer, size.layers, norm=nn.LayerNorm(size.width), enable_nested_tensor=False
        )
        self.head = nn.Linear(size.width, size.vocabulary)
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(size.context), persistent=False
        )

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        tokens = batch[0]  # (local_size, context + 1)
        hidden = self.body(
            self.token(tokens[:, :-1]) + self.position, mask=self.mask, is_causal=True
        )
        loss = F.cross_entropy(self.head(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class StepClock(Callback):
    """When each optimizer step was over, by the wall's clock and the processor's; to be the last of
    the callbacks.
    """

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step > len(self.ends):
            self.ends.append((time.perf_counter(), time.process_time()))

    @property
    def seconds(self) -> tuple[float, float]:
        """Mean durations of a step by both clocks, the first step left out."""
        steps = len(self.ends) - 1
        return (self.ends[-1][0] - self.ends[0][0]) / steps, (
            self.ends[-1][1] - self.ends[0][1]
        ) / steps


def fit(variant: Variant, module: Transformer, size: Size, steps: int, watcher: Callback) -> None:
    """Trains for ``steps`` optimizer steps on random tokens, all in memory, with nothing else
    switched on.
    """
    examples = size.local_size * size.accumulation * steps
    tokens = torch.randint(
        size.vocabulary, (examples, size.context + 1), generator=torch.Generator().manual_seed(0)
    )
    trainer = L.Trainer(
        **{"accelerator": "cpu", "devices": 1} | dict(variant.trainer_options),
        max_steps=steps,
        accumulate_grad_batches=size.accumulation,
        log_every_n_steps=10,
        logger=DummyLogger(),
        callbacks=[*variant.callbacks(), watcher],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    gc.collect()
    with contextlib.redirect_stdout(io.StringIO()):  # the verdict
        trainer.fit(module, DataLoader(TensorDataset(tokens), batch_size=size.local_size))


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without the remarks that Lightning makes on every fit."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 on torch 2.13
            yield
    finally:
        logger.setLevel(level)


# ---- time ---------------------------------------------------------------------------------------


class Timing(NamedTuple):
    """One line of the raw results: what a step of a variant took in a round.

    Args:
        round: number of the round.
        place: of the variant in the order of the round.
        variant: its name.
        seconds: of a step on the wall's clock, what a user waits.
        cpu_seconds: of a step on the processor's clock: the same on an idle machine with one
            thread, and on a busy one the part of it that is this process's own.
    """

    round: int
    place: int
    variant: str
    seconds: float
    cpu_seconds: float


class Ratio(NamedTuple):
    """A median with the ends of its 95 % interval."""

    median: float
    low: float
    high: float


def time_rounds(size: Size, rounds: int, seed: int = 0) -> Iterator[Timing]:
    """All variants once a round, in random order."""
    torch.manual_seed(seed)
    module, order = Transformer(size), random.Random(seed)
    for number in range(rounds):
        for place, variant in enumerate(order.sample(VARIANTS, len(VARIANTS))):
            clock = StepClock()
            fit(variant, module, size, TIMED_STEPS + 1, clock)
            yield Timing(number, place, variant.name, *clock.seconds)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval for the median, from order statistics; below 6 values (at 95 %)
    simply their range.

    >>> median_interval(range(1, 41))
    (14, 27)
    """
    ordered, n = sorted(values), len(values)
    rank, tail = 0, 0.5**n  # the probability that at most ``rank`` values lie below the median
    while rank + 1 < n / 2 and 2 * (tail + math.comb(n, rank + 1) * 0.5**n) <= 1 - confidence:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    return ordered[rank], ordered[n - 1 - rank]


def paired_ratio(timings: Sequence[Timing], variant: Variant, clock: str = "seconds") -> Ratio:
    """Step time relative to the baseline of the same round, median over rounds."""
    seconds = {(t.round, t.variant): getattr(t, clock) for t in timings}
    ratios = [
        seconds[number, variant.name] / seconds[number, variant.baseline]
        for number in {t.round for t in timings}
    ]
    return Ratio(statistics.median(ratios), *median_interval(ratios))


# ---- memory -------------------------------------------------------------------------------------


class Peak(NamedTuple):
    """Peak resident memory of one process, MiB."""

    run: int
    settled: bool
    variant: str
    mebibytes: float


def peak_mebibytes(variant: Variant, size_name: str, threads: int, *, settled: bool) -> float:
    """Peak resident memory of five steps in a process of their own, all libraries included.

    By itself glibc raises the size above which a block is given back to the system as it goes, and
    the peak then varies by 1 % from run to run; ``settled`` pins it, and the peak is what the
    tensors need.
    """
    arguments = [
        sys.executable,
        __file__,
        "--peak",
        variant.name,
        "--threads",
        str(threads),
        f"--size={size_name}",
    ]
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072"} if settled else {}
    done = subprocess.run(
        arguments, check=True, capture_output=True, text=True, env=os.environ | allocator
    )
    return float(done.stdout)


def measure_peaks(args: argparse.Namespace) -> Iterator[Peak]:
    """The variants in turn, so that nothing that changes with time is taken for a difference."""
    for run, settled, variant in itertools.product(
        range(args.memory_runs), (False, True), VARIANTS
    ):
        yield Peak(
            run,
            settled,
            variant.name,
            peak_mebibytes(variant, args.size, args.threads, settled=settled),
        )


def memory_ratio(peaks: Sequence[Peak], variant: Variant, *, settled: bool) -> float | None:
    """Ratio of the medians over runs; ``None`` where memory was not measured."""
    if not peaks:
        return None
    mine, base = (
        statistics.median(p.mebibytes for p in peaks if p.settled == settled and p.variant == name)
        for name in (variant.name, variant.baseline)
    )
    return mine / base


def own_peak(variant: Variant, size: Size) -> float:
    """The same for this process, which must have trained nothing before."""
    torch.manual_seed(0)
    fit(variant, Transformer(size), size, 5, Callback())
    # Not ru_maxrss: Linux hands that on through exec, so a child never shows less than the parent
    # that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- reads from the device ----------------------------------------------------------------------

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


class ExtraReads(NamedTuple):
    """Reads beyond those of the baseline, the greatest number in a step that Lightning does not log
    and in one that it does.
    """

    quiet: int
    log: int


def reads_by_step(variant: Variant, size: Size) -> list[int]:
    """Host reads in each of 22 steps, of which the 10th and the 20th are log steps."""
    torch.manual_seed(0)
    reads = HostReads()
    with reads.counting():
        fit(variant, Transformer(size), size, 22, reads)
    return reads.by_step


def extra_reads(of_variant: Sequence[int], of_baseline: Sequence[int]) -> ExtraReads:
    """The difference, step by step."""
    extra = [a - b for a, b in zip(of_variant, of_baseline, strict=True)]
    is_log = [number % 10 == 9 for number in range(len(extra))]
    return ExtraReads(
        quiet=max(x for x, log in zip(extra, is_log, strict=True) if not log),
        log=max(x for x, log in zip(extra, is_log, strict=True) if log),
    )


# ---- the report ---------------------------------------------------------------------------------


class Summary(NamedTuple):
    """One row of the table.

    Args:
        seconds: of one step, median over rounds.
        ratio: of step times; ``cpu_ratio`` by the processor's clock.
        memory_ratio: of peak resident memory, as the system's allocator leaves it;
            ``settled_memory_ratio`` without its whims.
        reads: added to those of the baseline.
    """

    variant: str
    seconds: float
    ratio: Ratio
    cpu_ratio: Ratio
    memory_ratio: float | None
    settled_memory_ratio: float | None
    reads: ExtraReads


def summarise(timings: Sequence[Timing], peaks: Sequence[Peak], size: Size) -> list[Summary]:
    """One row a variant."""
    counted = {variant.name: reads_by_step(variant, size) for variant in VARIANTS}
    return [
        Summary(
            variant=variant.name,
            seconds=statistics.median(t.seconds for t in timings if t.variant == variant.name),
            ratio=paired_ratio(timings, variant),
            cpu_ratio=paired_ratio(timings, variant, "cpu_seconds"),
            memory_ratio=memory_ratio(peaks, variant, settled=False),
            settled_memory_ratio=memory_ratio(peaks, variant, settled=True),
            reads=extra_reads(counted[variant.name], counted[variant.baseline]),
        )
        for variant in VARIANTS
    ]


def table(rows: Sequence[Summary]) -> str:
    """The rows in Markdown."""
    lines = [
        "| variant | step, s | step time, ratio [95 %] | CPU time of a step, ratio [95 %] | peak "
        "memory, ratio "
        "| with settled allocator | host reads added in a step without / with logging |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = [f"{r.median:.4f} [{r.low:.4f}, {r.high:.4f}]" for r in (row.ratio, row.cpu_ratio)]
        memory = [
            "–" if m is None else f"{m:.4f}" for m in (row.memory_ratio, row.settled_memory_ratio)
        ]
        cells = [
            row.variant,
            f"{row.seconds:.3f}",
            *ratios,
            *memory,
            f"{row.reads.quiet} / {row.reads.log}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """What the figures were taken on, without names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, torch "
        f"{torch.__version__} with "
        f"{torch.get_num_threads()} threads, lightning {L.__version__}, Python "
        f"{platform.python_version()}"
    )


def setup(size: Size) -> str:
    """What was trained."""
    millions = sum(p.numel() for p in Transformer(size).parameters()) / 1e6
    return (
        f"transformer of {millions:.1f} M parameters, {size.accumulation} micro-batches of "
        f"{size.local_size} × {size.context} "
        "tokens a step, AdamW"
    )


def write_raw(path: Path, timings: Sequence[Timing]) -> None:
    """A line for each round and variant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Timing._fields)
        writer.writerows(
            (*timing[:3], *(round(seconds, 6) for seconds in timing[3:])) for timing in timings
        )


def reporting(records: Iterable[Record]) -> Iterator[Record]:
    """Shows each record on its way."""
    for record in records:
        print(*record, sep="\t", file=sys.stderr)
        yield record


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--memory-runs",
        type=int,
        default=5,
        help="processes for each variant and allocator; 0: memory is not measured",
    )
    parser.add_argument(
        "--size", choices=["whole", "tiny"], default="whole", help="tiny is for the tests"
    )
    parser.add_argument(
        "--tiny", dest="size", action="store_const", const="tiny", help="short for --size tiny"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="raw results, CSV")
    parser.add_argument(
        "--peak",
        choices=[v.name for v in VARIANTS],
        help="only print this variant's own peak memory, MiB",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Summary]:
    """Measures, writes the raw results, prints and returns the summary."""
    args = parse(argv)
    size = TINY if args.size == "tiny" else WHOLE
    if args.threads != torch.get_num_threads():
        torch.set_num_threads(args.threads)
    with quiet_lightning():
        if args.peak is not None:
            print(own_peak(next(v for v in VARIANTS if v.name == args.peak), size))
            return []
        timings = list(reporting(time_rounds(size, args.rounds)))
        peaks = list(reporting(measure_peaks(args)))
        rows = summarise(timings, peaks, size)
    write_raw(args.output, timings)
    print(
        machine(),
        setup(size),
        f"{args.rounds} rounds of {TIMED_STEPS} steps",
        "",
        table(rows),
        sep="\n",
    )
    return rows


if __name__ == "__main__":
    main()
