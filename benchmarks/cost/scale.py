"""What the callback adds in 2, 3 and 4 real processes: collectives, bytes and host reads, counted.

The figures behind docs/scale.md. Nothing is timed, so they are the same on every machine.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.lightning_runs import SILENT
from benchmarks.harness.processes import in_processes, settings
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown
from lightning_noise import GradientNoiseScale

STEPS, LOG_EVERY = 40, 10

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "broadcast",
    "reduce",
    "barrier",
    "reduce_scatter",
)
READS = ("item", "tolist", "__float__", "__int__", "__bool__")


class Net(L.LightningModule):
    """A small network in several layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )

    def configure_model(self) -> None:
        """Shards for FSDP2, which alone has a mesh."""
        if self.device_mesh is not None and not isinstance(self.net, FSDPModule):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Counts collectives that Python starts, the bytes of all_reduce, and reads of a tensor by the
    host.
    """
    count = {"collectives": 0, "bytes": 0, "host_reads": 0}
    kept = [(dist, name, getattr(dist, name)) for name in COLLECTIVES]
    kept += [(Tensor, name, getattr(Tensor, name)) for name in READS]

    def collective(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            first = args[0] if args and isinstance(args[0], Tensor) else torch.empty(0)
            if not kwargs.get("async_op"):  # the gradients of DDP go out asynchronously
                count["collectives"] += 1
                count["bytes"] += first.numel() * first.element_size()
            return function(*args, **kwargs)

        return call

    def read(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count["host_reads"] += 1
            return function(*args, **kwargs)

        return call

    for owner, name, function in kept:
        setattr(owner, name, collective(function) if owner is dist else read(function))
    try:
        yield count
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def fit(strategy: str, callbacks: Sequence[L.Callback]) -> dict[str, int]:
    """Counts of one run of 40 steps."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        strategy=strategy,
        max_steps=STEPS,
        log_every_n_steps=LOG_EVERY,
        logger=False,
        callbacks=list(callbacks),
        **SILENT,
    )
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    with counted() as count:
        trainer.fit(Net(), DataLoader(TensorDataset(x), batch_size=4))
    return count


RUNS = (
    ("ddp", {}),
    ("ddp_noise", {}),
    ("ddp_noise", {"per_layer": True}),
    ("ddp", {"every_n_steps": 5}),
    ("fsdp_noise", {}),
    ("model_parallel_noise", {}),
)
STRATEGIES = tuple(dict.fromkeys(strategy for strategy, _ in RUNS))


class Row(NamedTuple):
    """What the callback adds to one run."""

    ranks: int
    strategy: str
    settings: str
    collectives: int
    bytes: int
    host_reads: int


def rank() -> list[Row]:
    """What each process does: every run with and without the callback; the difference."""
    rows = []
    for strategy, noise in RUNS:
        if strategy not in settings()["strategies"]:
            continue
        bare = fit(strategy, [])
        full = fit(strategy, [GradientNoiseScale(**noise)])
        added = [full[name] - bare[name] for name in full]
        words = ", ".join(f"{k}={v}" for k, v in noise.items()) or "default"
        rows.append(Row(int(os.environ["WORLD_SIZE"]), strategy, words, *added))
    return rows


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All runs of each number of processes in one start of them."""
    for ranks in options.ranks:
        if (ranks,) not in done:
            given = {"strategies": options.strategies}
            yield in_processes("benchmarks.cost.scale:rank", ranks, given)[0]


def formula(row: Row) -> int:
    """What docs/scale.md says of the bytes of one collective."""
    steps = LOG_EVERY // (5 if "every_n_steps" in row.settings else 1)
    return 8 * (row.ranks + 1 + steps * (1 + 4 * keys_of(row)))


def keys_of(row: Row) -> int:
    """k of the formula: one, and the three layers with ``per_layer``."""
    return 4 if "per_layer" in row.settings else 1


def table(rows: Sequence[Row]) -> str:
    """Beside the formula."""
    lines = []
    for row in rows:
        settings = row.settings
        if keys_of(row) > 1:
            settings += f" (k = {keys_of(row)})"
        size = row.bytes / row.collectives
        counts = (str(row.collectives), f"{size:g}", str(formula(row)), str(row.host_reads))
        lines.append((str(row.ranks), row.strategy, settings, *counts))
    head = ("ranks", "strategy", "settings", "collectives", "bytes per collective", "formula")
    return markdown((*head, "host reads"), lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    ranks: tuple[int, ...] = option((2, 3, 4), "numbers of processes", extends=True)
    strategies: tuple[str, ...] = option(STRATEGIES, "of the trainer", choices=STRATEGIES)


BENCHMARK = Benchmark(
    name="scale",
    question="Which collectives, bytes and host reads does the callback add?",
    about=__doc__,
    row=Row,
    key=("ranks",),
    measure=measure,
    options=Options(),
    quick=Options(ranks=(2,), strategies=("ddp_noise",)),
    tables={"scale": table},
    minutes=2,
)
