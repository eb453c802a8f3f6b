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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn import functional as F

from benchmarks.cost.overhead_ddp import FLUSH_EVERY, LOCAL_SIZE, SIZES
from benchmarks.harness.models import EncoderLM, random_tokens
from benchmarks.harness.processes import in_processes, settings
from benchmarks.harness.rounds import Stopwatch, Visit, compare, shuffled
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import markdown, number_cell
from lightning_noise import Monitor
from lightning_noise.hosts.distributed import sum_over_ranks


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


class Training:
    """A sharded model, trained on its one batch."""

    def __init__(self, variant: Variant, size: dict[str, int]) -> None:
        torch.manual_seed(0)
        rank, world = dist.get_rank(), dist.get_world_size()
        self.model = sharded(variant.strategy, EncoderLM(**size))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.tokens = random_tokens(LOCAL_SIZE, size["context"], seed=rank)
        self.monitor: Monitor | None = None
        self.steps = 0
        if variant.every is None:
            return
        self.monitor = Monitor(
            module=self.model,
            every_n_steps=variant.every,
            replicas=world,
            rank=rank,
            reduce=sum_over_ranks,
        )
        self.monitor.watch(dict(self.model.named_parameters()))
        for _ in range(variant.steps_before):
            self.step()

    def step(self) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        if self.monitor is None:
            self.backward()
        else:
            with self.monitor.micro_batch(size=len(self.tokens)):
                self.backward()
            self.monitor.step()
        self.optimizer.step()
        self.steps += 1
        if self.monitor is not None and self.steps % FLUSH_EVERY == 0:
            self.monitor.flush()

    def backward(self) -> None:
        """Leaves the gradients."""
        inputs, targets = self.tokens[:, :-1], self.tokens[:, 1:]
        F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten()).backward()


def visit(number: int, place: int, variant: Variant, step: Callable[[], None]) -> Visit:
    """An untimed step, then the timed ones."""
    step()
    watch = Stopwatch()
    for weight in variant.timed:
        dist.barrier()
        with watch.running(weight):
            step()
    return Visit(number, place, variant.name, *watch.per_step(1))


def rank() -> list[Visit]:
    """What each process does."""
    given = settings()
    dist.init_process_group("gloo")
    trainings = {variant: Training(variant, given["size"]) for variant in VARIANTS}
    rows = []
    for number in given["rounds"]:
        for place, variant in enumerate(shuffled(VARIANTS, number)):
            rows.append(visit(number, place, variant, trainings[variant].step))
    return rows


def measure(options: "Options", done: Done) -> Iterator[list[Visit]]:
    """The missing rounds, so many in one start of two processes."""
    missing = [number for number in range(options.rounds) if (number,) not in done]
    for first in range(0, len(missing), options.at_once):
        given = {
            "size": SIZES[options.size],
            "rounds": missing[first : first + options.at_once],
        }
        yield in_processes("benchmarks.cost.overhead_shards:rank", 2, given)[0]


def table(rows: Sequence[Visit]) -> str:
    """Ratios to the same sharding without measuring."""
    lines = []
    for variant in VARIANTS:
        found = compare(rows, variant.name, variant.strategy)
        step = number_cell(found.seconds, ".3f")
        ratios = (found.ratio_cell(), found.cpu_ratio_cell())
        lines.append((variant.name, found.rounds_cell, step, *ratios))
    ratios = ("step time, ratio [95 %]", "CPU time, ratio [95 %]")
    return markdown(("variant", "undisturbed rounds", "step, s", *ratios), lines)


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    """What ``run`` takes."""

    rounds: int = option(30, "rounds of all variants", extends=True)
    at_once: int = option(5, "of these, rounds in one start of the processes", extends=True)
    size: str = option("whole", "of the model", choices=tuple(SIZES))


BENCHMARK = Benchmark(
    name="overhead_shards",
    question="What does measuring cost in sharded training, under FSDP2 and FSDP?",
    about=__doc__,
    row=Visit,
    key=("round",),
    measure=measure,
    options=Options(),
    quick=Options(rounds=1, size="tiny"),
    tables={"overhead shards": table},
    minutes=8,
)
