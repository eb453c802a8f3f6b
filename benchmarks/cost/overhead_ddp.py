"""What measuring costs under DDP: two real processes, and beside it the communication hook that
everyone copies.

Every process trains a transformer in plain torch DDP, one micro-batch per step. In every round the
variants run in random order (the same on all ranks), each with an untimed step before the timed
one; the figure is the median over rounds of the ratio to plain DDP in the same round, on rank 0,
with its 95 % order-statistic interval.

The committed figures were taken before processor time was noted, so that no round can be judged
disturbed, and of a transformer without mask and table of positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness.models import EncoderLM, random_tokens
from benchmarks.harness.processes import in_processes, settings
from benchmarks.harness.rounds import Stopwatch, Visit, compare, shuffled
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import markdown
from lightning_noise import MicroBatches, Monitor, Ranks
from lightning_noise.probes.ranks import BucketTap, mean_hook

VARIANTS = ("plain DDP", "ranks", "micro_batches", "copied hook, two .item() a step")


SIZES = {
    "whole": {"width": 384, "layers": 6, "context": 64},
    "tiny": {"width": 32, "layers": 1, "context": 8},
}
LOCAL_SIZE, FLUSH_EVERY = 4, 10


class CopiedHook:
    """Norms as most public codes take them: a flat sum before and after the reduction, read by the
    host in every step.
    """

    def __init__(self) -> None:
        self.small, self.big = torch.zeros(()), torch.zeros(())

    def __call__(self, state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        buffer = bucket.buffer()
        self.small = self.small + buffer.pow(2).sum()
        reduced = buffer.mul_(1 / dist.get_world_size())

        def after(done: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
            self.big = self.big + done.value()[0].pow(2).sum()
            return done.value()[0]

        return dist.all_reduce(reduced, async_op=True).get_future().then(after)

    def read(self) -> tuple[float, float]:
        values = self.small.item(), self.big.item()
        self.small, self.big = torch.zeros(()), torch.zeros(())
        return values


def training(variant: str, size: dict[str, int]) -> Callable[[], None]:
    """A function that makes one training step."""
    torch.manual_seed(0)
    ddp = DistributedDataParallel(EncoderLM(**size))
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-4)
    rank, world = dist.get_rank(), dist.get_world_size()
    tokens = random_tokens(LOCAL_SIZE, size["context"], seed=rank)
    monitor, copied = None, None
    if variant == "ranks":
        tap = BucketTap()
        ddp.register_comm_hook(None, tap.before(mean_hook(None)))
        monitor = Monitor(Ranks(tap), replicas=world, rank=rank, reduce=sum_over_ranks)
    elif variant == "micro_batches":
        monitor = Monitor(MicroBatches(), replicas=world, rank=rank, reduce=sum_over_ranks)
    elif variant.startswith("copied"):
        copied = CopiedHook()

        def hook(state, bucket):
            return copied(state, bucket)

        ddp.register_comm_hook(None, hook)
    if monitor is not None:
        monitor.watch(dict(ddp.named_parameters()))
    steps = [0]

    def step() -> None:
        optimizer.zero_grad()
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        loss = F.cross_entropy(ddp(inputs).flatten(0, 1), targets.flatten())
        if monitor is not None:
            monitor.begin(len(tokens))
        loss.backward()
        if monitor is not None:
            monitor.end()
            monitor.step()
        elif copied is not None:
            copied.read()
        optimizer.step()
        steps[0] += 1
        if monitor is not None and steps[0] % FLUSH_EVERY == 0:
            monitor.flush()

    return step


def sum_over_ranks(table: Tensor) -> Tensor:
    dist.all_reduce(table)
    return table


def rank() -> list[Visit]:
    """What each process does."""
    given = settings()
    dist.init_process_group("gloo")
    steps = {variant: training(variant, given["size"]) for variant in VARIANTS}
    rows = []
    for number in given["rounds"]:
        for place, variant in enumerate(shuffled(VARIANTS, number)):
            steps[variant]()
            dist.barrier()
            watch = Stopwatch()
            with watch.running():
                steps[variant]()
            rows.append(Visit(number, place, variant, *watch.per_step(1)))
    return rows


def measure(options: "Options", done: Done) -> Iterator[list[Visit]]:
    """All missing rounds in one start of two processes."""
    rounds = [number for number in range(options.rounds) if (number,) not in done]
    if rounds:
        given = {"size": SIZES[options.size], "rounds": rounds}
        yield in_processes("benchmarks.cost.overhead_ddp:rank", 2, given)[0]


def table(rows: Sequence[Visit]) -> str:
    """Ratios to plain DDP."""
    lines = []
    for variant in VARIANTS:
        found = compare(rows, variant, VARIANTS[0])
        ratios = (found.ratio_cell(), found.cpu_ratio_cell())
        lines.append((variant, found.rounds_cell, *ratios))
    ratios = ("step time, ratio [95 %]", "CPU time, ratio [95 %]")
    return markdown(("variant", "undisturbed rounds", *ratios), lines)


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    """What ``run`` takes."""

    rounds: int = option(40, "rounds of all variants", extends=True)
    size: str = option("whole", "of the model", choices=tuple(SIZES))


BENCHMARK = Benchmark(
    name="overhead_ddp",
    question="What does measuring cost under DDP, beside the hook that everyone copies?",
    about=__doc__,
    row=Visit,
    key=("round",),
    measure=measure,
    options=Options(),
    quick=Options(rounds=2, size="tiny"),
    tables={"overhead ddp": table},
    minutes=6,
)
