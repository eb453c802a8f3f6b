"""What every probe costs on an accelerator that is full: step time, peak memory, and how often the
host waits for the device.

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

import functools
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cost.device_waits import LOG_EVERY, TIMED, UNTIMED, Waits, count_waits
from benchmarks.harness.lightning_runs import StepClock, Trained, Variant, fit
from benchmarks.harness.models import Transformer, random_tokens
from benchmarks.harness.rounds import compare, median_of, shuffled
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import MISSING, markdown, number_cell
from lightning_noise import GradientNoiseScale

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


def model_of(size: Size) -> Trained:
    """The decoder, from a fixed seed."""
    torch.manual_seed(0)
    model = Transformer(size.width, size.layers, size.context, size.vocabulary)
    return Trained(model, fused_optimizer=True)


def train(variant: Variant, module: Trained, job: Job, steps: int, *watchers: Callback) -> None:
    """Trains for ``steps`` optimizer steps on random tokens that lie in memory."""
    options = {"accumulate_grad_batches": 1} | dict(variant.trainer_options)
    examples = job.local_size * options["accumulate_grad_batches"] * steps * job.devices
    loader = DataLoader(
        TensorDataset(random_tokens(examples, job.size.context, job.size.vocabulary)),
        batch_size=job.local_size,
        pin_memory=job.accelerator != "cpu",
    )
    fixed = {"accelerator": job.accelerator, "devices": job.devices, "precision": job.precision}
    length = {"max_steps": steps, "log_every_n_steps": LOG_EVERY}
    fit(module, loader, *variant.callbacks(), *watchers, **options, **fixed, **length)


def free(module: Trained) -> None:
    """Gives back what a run held on the device, also after an error in it."""
    module.trainer = None  # after an error it still holds the optimizer and its state
    module.zero_grad(set_to_none=True)
    module.cpu()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attempt(run: Callable[[], None], module: Trained) -> bool:
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


def share_of_memory(module: Trained, job: Job) -> float | None:
    """Peak memory of two steps of the most demanding variant as a share of the device's; ``None``
    where it is not enough.
    """
    peak = 0
    for variant in variants(job.size, job.devices):
        free(module)
        if not attempt(functools.partial(train, variant, module, job, 2), module):
            return None
        peak = max(peak, torch.cuda.max_memory_allocated())
    return peak / torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


class Row(NamedTuple):
    """One visit, or the waits that were counted of a variant.

    Args:
        part: "step" or "waits".
        seconds: of a step; NaN where memory was not enough.
        quiet_waits, logged_waits: greatest number in a step that is not logged, and in one that is.
    """

    part: str
    device: str
    precision: str
    local_size: int
    round: int
    place: int
    variant: str
    seconds: float = math.nan
    cpu_seconds: float = math.nan
    load: float = math.nan
    peak_mebibytes: float = math.nan
    quiet_waits: int | None = None
    logged_waits: int | None = None


def visit(number: int, place: int, variant: Variant, module: Trained, job: Job) -> Row:
    """A few untimed steps and ten timed ones."""
    clock = StepClock(UNTIMED, TIMED)
    free(module)
    enough = attempt(lambda: train(variant, module, job, UNTIMED + TIMED, clock), module)
    peak = math.nan
    if torch.cuda.is_available() and enough:
        peak = torch.cuda.max_memory_allocated() / 2**20
    where = (device(), job.precision, job.local_size)
    return Row("step", *where, number, place, variant.name, *clock.times, peak)


def waits_of(variant: Variant, module: Trained, job: Job) -> Row:
    """Counted in a run of its own."""
    free(module)
    steps = UNTIMED + TIMED
    found = count_waits(
        lambda ranges: attempt(lambda: train(variant, module, job, steps, ranges), module),
        on_cpu=job.accelerator == "cpu",
    )
    where = (device(), job.precision, job.local_size)
    row = Row("waits", *where, 0, 0, variant.name)
    if found is None:
        return row
    return row._replace(quiet_waits=found.quiet, logged_waits=found.logged)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Everything about each precision.

    Raises:
        ValueError: there is no CUDA device.
    """
    if options.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here. --quick runs a toy on the CPU.")
    torch.set_float32_matmul_precision("high")
    size = SIZES[options.size]
    for precision in options.precisions:
        job = Job(size, precision, options.local_size, options.devices, options.accelerator)
        for group in measure_job(job, options.rounds, done):
            if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
                yield group


def measure_job(job: Job, rounds: int, done: Done) -> Iterator[list[Row]]:
    """Rounds of all variants, then their waits."""
    module, known = model_of(job.size), variants(job.size, job.devices)
    if not job.local_size:
        # of one example alone nothing can be compared
        best = largest_batch(lambda size: share_of_memory(module, job._replace(local_size=size)))
        job = job._replace(local_size=max(2, best))
    for number in range(rounds):
        if ("step", job.precision, number) not in done:
            order = enumerate(shuffled(known, number))
            yield [visit(number, place, variant, module, job) for place, variant in order]
    if ("waits", job.precision, 0) not in done:
        yield [waits_of(variant, module, job) for variant in known]


def device() -> str:
    """Its name, as the driver gives it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


# ---- the table ----------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Every variant of each precision beside its baseline."""
    lines = []
    for precision in dict.fromkeys(row.precision for row in rows):
        here = [row for row in rows if row.precision == precision]
        baselines = baselines_of(here)
        for name, baseline in baselines.items():
            head = (precision, str(here[0].local_size), name)
            lines.append((*head, *cells(here, name, baseline)))
    head = ("precision", "micro-batch", "variant", "step, ms", "step time, ratio [95 %]")
    more = ("peak memory, ratio", "waits added without / with logging", "all waits")
    return markdown((*head, *more), lines)


def baselines_of(rows: Sequence[Row]) -> dict[str, str]:
    """The baseline of each variant that was measured: the one without the callback that comes
    before it.
    """
    names = {row.variant for row in rows}
    return {
        variant.name: variant.baseline
        for size in SIZES.values()
        for variant in variants(size, devices=2)
        if {variant.name, variant.baseline} <= names
    }


def cells(rows: Sequence[Row], name: str, baseline: str) -> list[str]:
    """Those of a variant."""
    timed = [row for row in rows if row.part == "step"]
    found = compare(timed, name, baseline)
    if found.rounds == 0:
        first = ["out of memory", MISSING, MISSING]
    else:
        # the host runs ahead of the device, so that its CPU time says nothing of the device's
        first = [number_cell(1e3 * found.seconds, ".1f"), found.ratio_cell(".4f")]
        peaks = peak_ratios(timed, name, baseline)
        first.append(number_cell(median_of(peaks).median, ".4f"))
    mine, base = (waits_in(rows, variant) for variant in (name, baseline))
    if mine is None or base is None:
        return [*first, MISSING, MISSING]
    added = f"{mine.quiet - base.quiet} / {mine.logged - base.logged}"
    return [*first, added, f"{mine.quiet} / {mine.logged}"]


def peak_ratios(rows: Sequence[Row], name: str, baseline: str) -> list[float]:
    """Of peak memory in the rounds with both."""
    base = {row.round: row.peak_mebibytes for row in rows if row.variant == baseline}
    mine = {row.round: row.peak_mebibytes for row in rows if row.variant == name}
    found = [peak / base[number] for number, peak in mine.items()]
    return [ratio for ratio in found if not math.isnan(ratio)]


def waits_in(rows: Sequence[Row], name: str) -> Waits | None:
    """Those of a variant; ``None`` where they were not counted."""
    for row in rows:
        if (row.part, row.variant) == ("waits", name) and row.quiet_waits is not None:
            return Waits(row.quiet_waits, row.logged_waits)
    return None


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    size: str = option("110M", "of the model", choices=tuple(SIZES))
    precisions: tuple[str, ...] = option(
        PRECISIONS, "to train in", extends=True, choices=PRECISIONS
    )
    rounds: int = option(10, "rounds of all variants", extends=True)
    local_size: int = option(0, "examples in a micro-batch; 0: as many as memory allows")
    devices: int = option(1, "more than one: under DDP, with the ranks probe")
    accelerator: str = option("cuda", "of the trainer", choices=("cuda", "cpu"))


QUICK = Options(size="toy", precisions=("bf16-true",), rounds=1, local_size=4, accelerator="cpu")
BENCHMARK = Benchmark(
    name="gpu",
    question="What does every probe cost on an accelerator that is full?",
    about=__doc__,
    row=Row,
    key=("part", "precision", "round"),
    measure=measure,
    options=Options(),
    quick=QUICK,
    tables={"gpu": table},
    minutes=20,
    needs="a CUDA device",
)
