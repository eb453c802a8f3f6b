"""What every probe costs on an accelerator that is full: step time, peak memory, and how often the
host waits for the device.

    python benchmarks/gpu.py --csv benchmarks/results/gpu.csv
    python benchmarks/gpu.py --devices 8 --csv ...      # the ranks probe, beside plain DDP
    python benchmarks/gpu.py --small                    # a toy on the CPU, for tests

A decoder-only transformer is trained by Lightning in half precision. The micro-batch is doubled
until memory runs out or the most demanding variant uses more than 85 % of it. Then, in every round,
all variants of a precision run in random order: a fit of a few untimed steps and ten timed ones,
with the device synchronised at both ends of the ten and nowhere else. The figure is the median over
rounds of the ratio to the baseline of the same round, with its 95 % order-statistic interval. Ten
steps hold one log step and, with every_n_steps=10, one measured step.

Waits are counted by torch's profiler in a run of their own: calls of the CUDA runtime in which the
host waits for the device, and copies from the device to the host, in steps that are not logged and
in the one that is. Those of the baseline (Lightning's own) are taken off; zero in steps that are
not logged is what the package promises.
"""

import argparse
import contextlib
import csv
import gc
import io
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.examples_probe import Block
from benchmarks.overhead import Ratio, Variant, machine, median_interval, quiet_lightning
from lightning_noise import GradientNoiseScale

UNTIMED, TIMED, LOG_EVERY = 2, 10, 10
MOST_MEMORY = 0.85
PRECISIONS = ("bf16-mixed", "bf16-true")


class Size(NamedTuple):
    """A transformer of 12 · layers · width² parameters and two tables of vocabulary · width."""

    width: int
    layers: int
    context: int
    vocabulary: int
    accumulation: int = 4


SIZES = {
    "110M": Size(width=768, layers=12, context=1024, vocabulary=16384),
    "336M": Size(width=1024, layers=24, context=1024, vocabulary=16384),
    "toy": Size(width=32, layers=1, context=8, vocabulary=64, accumulation=2),
}


# ---- the run that is measured -------------------------------------------------------------------


class Decoder(L.LightningModule):
    """A pre-norm decoder-only language model with an untied head."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.token, self.place = (
            nn.Embedding(size.vocabulary, size.width),
            nn.Embedding(size.context, size.width),
        )
        self.body = nn.Sequential(
            *(Block(size.width, max(1, size.width // 64)) for _ in range(size.layers))
        )
        self.norm, self.head = (
            nn.LayerNorm(size.width),
            nn.Linear(size.width, size.vocabulary, bias=False),
        )
        self.register_buffer("places", torch.arange(size.context), persistent=False)

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        tokens = batch[0]  # (local_size, context + 1)
        places = self.places.expand(len(tokens), -1)
        hidden = self.norm(self.body(self.token(tokens[:, :-1]) + self.place(places)))
        loss = F.cross_entropy(self.head(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-5, fused=True)


def variants(size: Size, devices: int) -> tuple[Variant, ...]:
    """Each with its baseline: the same trainer without the callback."""
    many = {"accumulate_grad_batches": size.accumulation}
    ddp = {"strategy": "ddp"} if devices > 1 else {}

    def measuring(probe: str, **arguments: Any) -> Callable[[], list[Callback]]:
        return lambda: [GradientNoiseScale(probe=probe, **arguments)]

    one, accumulated = "no callback", f"no callback, {size.accumulation} micro-batches"
    found = [
        Variant(one, list, ddp, one),
        Variant("examples, every step", measuring("examples"), ddp, one),
        Variant("examples, every 10th step", measuring("examples", every_n_steps=10), ddp, one),
        Variant(accumulated, list, ddp | many, accumulated),
        Variant("micro_batches, every step", measuring("micro_batches"), ddp | many, accumulated),
    ]
    if devices > 1:
        found.append(
            Variant("ranks, every step", measuring("ranks"), {"strategy": "ddp_noise"}, one)
        )
    return tuple(found)


class Job(NamedTuple):
    """What all variants have in common."""

    size: Size
    precision: str
    local_size: int
    devices: int
    accelerator: str


def fit(variant: Variant, module: Decoder, job: Job, steps: int, *watchers: Callback) -> None:
    """Trains for ``steps`` optimizer steps on random tokens that lie in memory, with nothing else
    switched on.
    """
    trainer = L.Trainer(
        **{"accumulate_grad_batches": 1} | dict(variant.trainer_options),
        accelerator=job.accelerator,
        devices=job.devices,
        precision=job.precision,  # type: ignore[arg-type]  # one of PRECISIONS
        max_steps=steps,
        log_every_n_steps=LOG_EVERY,
        logger=DummyLogger(),
        callbacks=[*variant.callbacks(), *watchers],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    examples = job.local_size * trainer.accumulate_grad_batches * steps * job.devices
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(
        job.size.vocabulary, (examples, job.size.context + 1), generator=generator
    )
    loader = DataLoader(
        TensorDataset(tokens), batch_size=job.local_size, pin_memory=job.accelerator != "cpu"
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the verdict
        trainer.fit(module, loader)


def free(module: Decoder) -> None:
    """Gives back what a run held on the device, also after an error in it."""
    module.trainer = None  # after an error it still holds the optimizer and its state
    module.zero_grad(set_to_none=True)
    module.cpu()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attempt(run: Callable[[], None], module: Decoder) -> bool:
    """Whether ``run`` had memory enough. What it held is given back, once the error no longer
    points at it.
    """
    try:
        run()
        enough = True
    except torch.OutOfMemoryError:
        enough = False
    if not enough:
        free(module)
    return enough


def largest_batch(used: Callable[[int], float | None], most: int = 2**14) -> int:
    """The last size on the way 1, 2, 4, … that needs at most 85 % of the memory.

    Args:
        used: share of the memory that a micro-batch of this size takes; ``None`` where it does not
            fit.

    Raises:
        RuntimeError: not even one example fits.

    >>> largest_batch(lambda size: 0.1 + 0.02 * size if size < 100 else None)
    32
    """
    best, size = 0, 1
    while size <= most:
        share = used(size)
        if share is None or share > MOST_MEMORY:
            break
        best, size = size, 2 * size
    if best == 0:
        raise RuntimeError(
            "not even a micro-batch of one example fits into the memory of this device: take a "
            "smaller --size."
        )
    return best


def share_of_memory(module: Decoder, job: Job) -> float | None:
    """Peak memory of two steps of the most demanding variant as a share of the device's; ``None``
    where it is not enough.
    """
    peak = 0
    for variant in variants(job.size, job.devices):
        free(module)
        if not attempt(lambda variant=variant: fit(variant, module, job, 2), module):  # type: ignore[misc]
            return None
        peak = max(peak, torch.cuda.max_memory_allocated())
    return peak / torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


# ---- time and memory ----------------------------------------------------------------------------


class StepClock(Callback):
    """Seconds of one step, from the end of the untimed steps to the end of the last; to be the last
    of the callbacks.
    """

    def __init__(self) -> None:
        self.start = self.seconds = math.nan
        self.steps = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps or trainer.global_step not in (
            UNTIMED,
            UNTIMED + TIMED,
        ):
            return
        self.steps = trainer.global_step
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if trainer.global_step == UNTIMED:
            self.start = time.perf_counter()
        else:
            self.seconds = (time.perf_counter() - self.start) / TIMED


class Timing(NamedTuple):
    """One line of the raw results; seconds are NaN where memory was not enough."""

    device: str
    precision: str
    local_size: int
    round: int
    place: int
    variant: str
    seconds: float
    peak_mebibytes: float


def time_rounds(job: Job, module: Decoder, rounds: int, seed: int = 0) -> Iterator[Timing]:
    """All variants once a round, in random order, which is the same on all ranks."""
    order, known = random.Random(seed), variants(job.size, job.devices)
    for number in range(rounds):
        for place, variant in enumerate(order.sample(known, len(known))):
            clock = StepClock()
            free(module)
            run = lambda variant=variant, clock=clock: fit(  # noqa: E731  # bound to this round
                variant, module, job, UNTIMED + TIMED, clock
            )
            enough = attempt(run, module)
            peak = (
                torch.cuda.max_memory_allocated() / 2**20
                if torch.cuda.is_available() and enough
                else math.nan
            )
            yield Timing(
                device(),
                job.precision,
                job.local_size,
                number,
                place,
                variant.name,
                clock.seconds,
                peak,
            )


def ratio(timings: Iterable[Timing], variant: Variant, field: str = "seconds") -> Ratio:
    """Of a variant to its baseline in the same round, median over rounds; NaN where there is no
    round with both.
    """
    value = {(t.round, t.variant): getattr(t, field) for t in timings}
    numbers = sorted({number for number, _ in value})
    ratios = [value[number, variant.name] / value[number, variant.baseline] for number in numbers]
    ratios = [r for r in ratios if not math.isnan(r)]
    return (
        Ratio(statistics.median(ratios), *median_interval(ratios))
        if ratios
        else Ratio(math.nan, math.nan, math.nan)
    )


# ---- waits --------------------------------------------------------------------------------------

RUNTIME_WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize")  # cuda… or hip…
HOST_READS = (
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::nonzero",
)  # what would wait, seen on the CPU
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


def count_waits(variant: Variant, module: Decoder, job: Job) -> Waits | None:
    """Waits in a run of its own under the profiler; ``None`` where memory was not enough."""
    on_cpu = job.accelerator == "cpu"
    activities = [ProfilerActivity.CPU] + ([] if on_cpu else [ProfilerActivity.CUDA])
    free(module)
    with profile(activities=activities, acc_events=True) as watched:
        ranges = StepRanges()
        enough = attempt(lambda: fit(variant, module, job, UNTIMED + TIMED, ranges), module)
        ranges.close()
    if not enough:
        return None
    host = [
        e
        for e in watched.events()
        if not (e.name in (QUIET, LOGGED) and e.device_type.name != "CPU")
    ]
    return waits_by_step(
        [Event(e.name, e.time_range.start, e.time_range.end) for e in host], on_cpu=on_cpu
    )


# ---- the report ---------------------------------------------------------------------------------


class Summary(NamedTuple):
    """One row of the table.

    Args:
        seconds: of one optimizer step, median over rounds; NaN: memory was not enough.
        ratio: of step times to the baseline.
        memory: ratio of peak memory; NaN on the CPU.
        waits: beyond those of the baseline; ``None``: not counted.
        own_waits: all of them.
    """

    precision: str
    local_size: int
    variant: str
    seconds: float
    ratio: Ratio
    memory: float
    waits: Waits | None
    own_waits: Waits | None


def summarise(
    job: Job, timings: Sequence[Timing], waits: Mapping[str, Waits | None]
) -> list[Summary]:
    """One row a variant of one precision."""
    rows = []
    for variant in variants(job.size, job.devices):
        mine, base = waits.get(variant.name), waits.get(variant.baseline)
        seconds = [
            t.seconds for t in timings if t.variant == variant.name and not math.isnan(t.seconds)
        ]
        rows.append(
            Summary(
                precision=job.precision,
                local_size=job.local_size,
                variant=variant.name,
                seconds=statistics.median(seconds) if seconds else math.nan,
                ratio=ratio(timings, variant),
                memory=ratio(timings, variant, "peak_mebibytes").median,
                waits=Waits(mine.quiet - base.quiet, mine.logged - base.logged)
                if mine and base
                else None,
                own_waits=mine,
            )
        )
    return rows


def table(rows: Sequence[Summary]) -> str:
    """The rows in Markdown."""
    heads = [
        "precision",
        "micro-batch",
        "variant",
        "step, ms",
        "step time, ratio [95 %]",
        "peak memory, ratio",
    ]
    heads += ["waits added without / with logging", "all waits"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        if math.isnan(row.seconds):
            cells = ["out of memory", "–", "–"]
        else:
            r = row.ratio
            cells = [f"{1e3 * row.seconds:.1f}", f"{r.median:.4f} [{r.low:.4f}, {r.high:.4f}]"]
            cells += ["–" if math.isnan(row.memory) else f"{row.memory:.4f}"]
        counts = [
            "–" if w is None else f"{w.quiet} / {w.logged}" for w in (row.waits, row.own_waits)
        ]
        lines.append([row.precision, str(row.local_size), row.variant, *cells, *counts])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def device() -> str:
    """Its name, as the driver gives it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def write_raw(path: Path, timings: Sequence[Timing]) -> None:
    """A line for each precision, round and variant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Timing._fields)
        writer.writerows(timings)


def measure(job: Job, args: argparse.Namespace) -> tuple[list[Timing], list[Summary]]:
    """Everything about one precision."""
    torch.manual_seed(0)
    module = Decoder(job.size)
    known = variants(job.size, job.devices)
    if not job.local_size:
        largest = largest_batch(lambda size: share_of_memory(module, job._replace(local_size=size)))
        job = job._replace(
            local_size=max(2, largest)
        )  # of one example alone nothing can be compared
    timings = list(time_rounds(job, module, args.rounds))
    waits = {variant.name: count_waits(variant, module, job) for variant in known}
    return timings, summarise(job, timings, waits)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="110M", help="of the model")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--local-size",
        type=int,
        default=0,
        help="examples in a micro-batch; 0: as many as memory allows",
    )
    parser.add_argument(
        "--devices", type=int, default=1, help="more than one: under DDP, with the ranks probe"
    )
    parser.add_argument("--csv", type=Path, help="file to write the raw results to")
    parser.add_argument("--small", action="store_true", help="a toy on the CPU")
    args = parser.parse_args(argv)
    if not args.small and not torch.cuda.is_available():
        parser.error("there is no CUDA device here. --small runs a toy on the CPU.")
    return args


def main(argv: Sequence[str] | None = None) -> list[Summary]:
    """Measures, writes the raw results, prints the table and returns its rows."""
    args = parse(argv)
    size = SIZES["toy" if args.small else args.size]
    accelerator, local_size = (
        ("cpu", args.local_size or 4) if args.small else ("cuda", args.local_size)
    )
    torch.set_float32_matmul_precision("high")
    timings: list[Timing] = []
    rows: list[Summary] = []
    with quiet_lightning():
        for precision in args.precisions:
            found = measure(Job(size, precision, local_size, args.devices, accelerator), args)
            timings, rows = timings + found[0], rows + found[1]
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return rows
    if args.csv:
        write_raw(args.csv, timings)
    millions = sum(p.numel() for p in Decoder(size).parameters()) / 1e6
    print(f"{args.devices} × {device()}; {machine()}")
    print(
        f"decoder of {millions:.1f} M parameters, context {size.context}, fused AdamW; "
        f"{args.rounds} rounds of {TIMED} steps\n"
    )
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
