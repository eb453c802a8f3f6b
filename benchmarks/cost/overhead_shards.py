"""What measuring costs in sharded training: two real processes under FSDP2 and FSDP.

Every process trains the transformer of ``overhead_ddp`` in plain torch, its layers and the root
sharded over both, one micro-batch per step. In every round the variants run in random order (the
same on all ranks), each with an untimed step before the timed one; the figure is the median over
rounds of the ratio to the same sharding without measuring in the same round, on rank 0, with its
95 % order-statistic interval.

*Every 10th step* times the measured step, weight 0.1, and the one after it, which takes the hooks
off, weight 0.9: it stands for the nine others of the cycle, though eight of them have no hooks to
take off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from benchmarks.cost.two_ranks import Options, Training, all_rounds, measuring, model, monitor_of
from benchmarks.harness.models import EncoderLM
from benchmarks.harness.rounds import Visit, ratio_table
from benchmarks.harness.spec import Benchmark


class Variant(NamedTuple):
    """One way to train.

    Args:
        every: how often a step is measured, if at all.
        timed: the steps of a visit that are timed, by their weight in the mean step.
    """

    strategy: str
    every: int | None = None
    timed: tuple[float, ...] = (1.0,)
    often: str = ""

    @property
    def name(self) -> str:
        """In the table."""
        return self.strategy + self.often

    @property
    def steps_before(self) -> int:
        """The first visit, so that its untimed step is the last of a cycle."""
        return (self.every or 1) - 1


VARIANTS = tuple(
    variant
    for strategy in ("FSDP2", "FSDP")
    for variant in (
        Variant(strategy),
        Variant(strategy, 1, often=", every step"),
        Variant(strategy, 3, timed=(0.1, 0.9), often=", every 10th step"),  # three stand for ten
    )
)


def sharded(strategy: str, model: EncoderLM) -> nn.Module:
    """The model with every layer as a unit, and a root for what is left."""
    if strategy == "FSDP":
        policy = ModuleWrapPolicy({nn.TransformerEncoderLayer})
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, device_id=cpu, use_orig_params=True
        )
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.body.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def training(variant: Variant) -> Training:
    """At the place in the cycle of measured steps where a visit begins."""
    wrapped = sharded(variant.strategy, model())
    if variant.every is None:
        return Training(wrapped)
    monitor = monitor_of(module=wrapped, every_n_steps=variant.every)
    found = Training(wrapped, monitor=monitor, timed=variant.timed)
    for _ in range(variant.steps_before):
        found.step()
    return found


def rank() -> list[Visit]:
    """What each process does."""
    dist.init_process_group("gloo")
    return all_rounds({variant.name: training(variant) for variant in VARIANTS})


def table(rows: Sequence[Visit]) -> str:
    """Ratios to the same sharding without measuring."""
    return ratio_table(rows, {variant.name: variant.strategy for variant in VARIANTS})


BENCHMARK = Benchmark(
    name="overhead_shards",
    question="What does measuring cost in sharded training, under FSDP2 and FSDP?",
    about=__doc__,
    row=Visit,
    key=("round",),
    measure=measuring("benchmarks.cost.overhead_shards:rank"),
    options=Options(rounds=30, at_once=5),
    quick=Options(rounds=1, size="tiny"),
    tables={"overhead shards": table},
    minutes=8,
)
