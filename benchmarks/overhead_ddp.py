"""What measuring costs under DDP: two real processes, and beside it the communication hook that
everyone copies.

    python benchmarks/overhead_ddp.py --rounds 40 --csv benchmarks/results/overhead_ddp.csv

Every process trains a transformer in plain torch DDP, one micro-batch a step. In every round the
variants run in random order (the same on all ranks), each with an untimed step before the timed
one; the figure is the median over rounds of the ratio to plain DDP in the same round, on rank 0,
with its 95 % order-statistic interval.
"""

import argparse
import csv
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_noise import MicroBatches, Monitor, Ranks
from lightning_noise.probes.ranks import BucketTap, mean_hook
from testing.launch import launch

SETTINGS = "LIGHTNING_NOISE_BENCHMARK"
VARIANTS = ("plain DDP", "ranks", "micro_batches", "copied hook, two .item() a step")


class Model(nn.Module):
    """A pre-norm transformer encoder over bytes."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.table = nn.Embedding(256, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.table(tokens)))


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


def training(variant: str, settings: dict[str, int]) -> Callable[[], None]:
    """A function that makes one training step."""
    torch.manual_seed(0)
    ddp = DistributedDataParallel(Model(settings["width"], settings["layers"]))
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-4)
    rank, world = dist.get_rank(), dist.get_world_size()
    tokens = torch.randint(
        0,
        256,
        (settings["local_size"], settings["context"]),
        generator=torch.Generator().manual_seed(rank),
    )
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
        loss = nn.functional.cross_entropy(ddp(tokens).flatten(0, 1), tokens.flatten())
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
        if monitor is not None and steps[0] % 10 == 0:
            monitor.flush()

    return step


def sum_over_ranks(table: Tensor) -> Tensor:
    dist.all_reduce(table)
    return table


def rank() -> list[tuple[int, str, float]]:
    """What each process does; (round, variant, seconds)."""
    settings = json.loads(os.environ[SETTINGS])
    dist.init_process_group("gloo")
    steps = {variant: training(variant, settings) for variant in VARIANTS}
    order, rows = random.Random(0), []
    for number in range(settings["rounds"]):
        for variant in order.sample(VARIANTS, len(VARIANTS)):
            steps[variant]()
            dist.barrier()
            start = time.perf_counter()
            for _ in range(settings["timed"]):
                steps[variant]()
            rows.append((number, variant, (time.perf_counter() - start) / settings["timed"]))
    return rows


def ratio(
    rows: Sequence[tuple[int, str, float]], variant: str, base: str = VARIANTS[0]
) -> tuple[float, float, float]:
    """Median of the paired ratios to ``base``, and the ends of its 95 % interval."""
    seconds = {(number, name): value for number, name, value in rows}
    numbers = sorted({number for number, _, _ in rows})
    ratios = sorted(seconds[n, variant] / seconds[n, base] for n in numbers)
    reach = round(0.98 * len(ratios) ** 0.5)  # 1.96 · sqrt(n)/2
    low = max(0, len(ratios) // 2 - reach - 1)
    return statistics.median(ratios), ratios[low], ratios[len(ratios) - 1 - low]


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[float, float, float]]:
    """Prints the table; (median, low, high) by variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tiny", action="store_true", help="a toy, for the test of this script")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    size = (
        {"width": 32, "layers": 1, "context": 8}
        if args.tiny
        else {"width": 384, "layers": 6, "context": 64}
    )
    os.environ[SETTINGS] = json.dumps({**size, "local_size": 4, "rounds": args.rounds, "timed": 1})
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = launch("benchmarks.overhead_ddp:rank", 2, Path(folder), timeout=3600)[0]
    finally:
        del os.environ[SETTINGS]
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("round", "variant", "seconds"))
            writer.writerows(rows)
    found = {variant: ratio(rows, variant) for variant in VARIANTS}
    print("| variant | step time, ratio [95 %] |\n|---|---|")
    for variant, (median, low, high) in found.items():
        print(f"| {variant} | {median:.4f} [{low:.4f}, {high:.4f}] |")
    return found


if __name__ == "__main__":
    main()
