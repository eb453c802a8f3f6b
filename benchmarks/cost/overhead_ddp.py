"""What measuring costs under DDP: two real processes, and beside it the communication hook that
everyone copies.

Every process trains a transformer in plain torch DDP, one micro-batch per step. In every round the
variants run in random order (the same on all ranks), each with an untimed step before the timed
one; the figure is the median over rounds of the ratio to plain DDP in the same round, on rank 0,
with its 95 % order-statistic interval.

The committed figures were taken before processor time was noted, so that no round can be judged
disturbed, and of a transformer without mask and table of positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.cost.two_ranks import Options, Training, all_rounds, measuring, model, monitor_of
from benchmarks.harness.rounds import Visit, ratio_table
from benchmarks.harness.spec import Benchmark
from lightning_noise import MicroBatches, Ranks
from lightning_noise.probes.ranks import BucketTap, mean_hook

BASELINE = "plain DDP"


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


def plain() -> Training:
    """Without measuring."""
    return Training(DistributedDataParallel(model()))


def ranks() -> Training:
    """The gradients of each rank, from DDP's buckets."""
    ddp, tap = DistributedDataParallel(model()), BucketTap()
    ddp.register_comm_hook(None, tap.before(mean_hook(None)))
    return Training(ddp, monitor=monitor_of(Ranks(tap)))


def micro_batches() -> Training:
    """Through tensor hooks."""
    return Training(DistributedDataParallel(model()), monitor=monitor_of(MicroBatches()))


def copied_hook() -> Training:
    """The hook of others."""
    ddp, copied = DistributedDataParallel(model()), CopiedHook()
    ddp.register_comm_hook(None, lambda state, bucket: copied(state, bucket))
    return Training(ddp, after_backward=copied.read)


VARIANTS = {
    BASELINE: plain,
    "ranks": ranks,
    "micro_batches": micro_batches,
    "copied hook, two .item() a step": copied_hook,
}


def rank() -> list[Visit]:
    """What each process does."""
    dist.init_process_group("gloo")
    return all_rounds({name: build() for name, build in VARIANTS.items()})


def table(rows: Sequence[Visit]) -> str:
    """Ratios to plain DDP."""
    return ratio_table(rows, dict.fromkeys(VARIANTS, BASELINE))


BENCHMARK = Benchmark(
    name="overhead_ddp",
    question="What does measuring cost under DDP, beside the hook that everyone copies?",
    about=__doc__,
    row=Visit,
    key=("round",),
    measure=measuring("benchmarks.cost.overhead_ddp:rank"),
    options=Options(),
    quick=Options(rounds=2, size="tiny"),
    tables={"overhead ddp": table},
    minutes=6,
)
