"""What the callback adds in 2, 3 and 4 real processes: collectives, bytes and host reads, counted.

    python benchmarks/scale.py --csv benchmarks/results/scale.csv

The figures behind docs/scale.md. Nothing is timed, so they are the same on every machine.
"""

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import GradientNoiseScale
from testing.launch import launch

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
    count = {"collectives": 0, "bytes": 0, "host reads": 0}
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
            count["host reads"] += 1
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
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    with counted() as count:
        trainer.fit(Net(), DataLoader(TensorDataset(x), batch_size=4))
    return count


def rank() -> list[dict[str, int | str]]:
    """What each process does: every variant with and without the callback; the difference."""
    rows: list[dict[str, int | str]] = []
    for strategy, noise in (
        ("ddp", {}),
        ("ddp_noise", {}),
        ("ddp_noise", {"per_layer": True}),
        ("ddp", {"every_n_steps": 5}),
        ("fsdp_noise", {}),
        ("model_parallel_noise", {}),
    ):
        bare = fit(strategy, [])
        full = fit(strategy, [GradientNoiseScale(**noise)])
        added = {name: full[name] - bare[name] for name in full}
        settings = ", ".join(f"{k}={v}" for k, v in noise.items()) or "default"
        rows.append(
            {
                "ranks": int(os.environ["WORLD_SIZE"]),
                "strategy": strategy,
                "settings": settings,
                **added,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict[str, int | str]]:
    """Prints the table; the rows of rank 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    rows: list[dict[str, int | str]] = []
    for world_size in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            rows += launch("benchmarks.scale:rank", world_size, Path(folder))[0]
    print(f"added by the callback in {STEPS} steps, logged every {LOG_EVERY}:")
    print(
        "| ranks | strategy | settings | collectives | bytes per collective | host reads "
        "|\n|---|---|---|---|---|---|"
    )
    for row in rows:
        size = int(row["bytes"]) / max(1, int(row["collectives"]))
        print(f"| {row['ranks']} | {row['strategy']} | {row['settings']} | ", end="")
        print(f"{row['collectives']} | {size:.0f} | {row['host reads']} |")
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return rows


if __name__ == "__main__":
    main()
