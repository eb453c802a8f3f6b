"""What measuring costs in sharded training: two real processes under FSDP2 and FSDP.

    python benchmarks/overhead_shards.py --rounds 30 --csv benchmarks/results/overhead_shards.csv

Every process trains the transformer of ``overhead_ddp.py`` in plain torch, its layers and the root
sharded over both, one micro-batch a step. In every round the variants run in random order (the same
on all ranks), each with an untimed step before the timed one; the figure is the median over rounds
of the ratio to the same sharding without measuring in the same round, on rank 0, with its 95 %
order-statistic interval.
"""

import argparse
import csv
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from benchmarks.overhead_ddp import Model, ratio
from lightning_noise import Monitor
from lightning_noise.hosts.distributed import sum_over_ranks
from testing.launch import launch

SETTINGS = "LIGHTNING_NOISE_BENCHMARK"
EVERY = {"": None, ", every step": 1, ", every 10th step": 10}
STRATEGIES = ("FSDP2", "FSDP")
VARIANTS = tuple(strategy + often for strategy in STRATEGIES for often in EVERY)
LOGGED = 10  # steps between two reads


def sharded(strategy: str, model: Model) -> nn.Module:
    """The model with every layer as a unit, and a root for what is left."""
    if strategy == "FSDP":
        policy = ModuleWrapPolicy({nn.TransformerEncoderLayer})
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, device_id=cpu, use_orig_params=True
        )
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.blocks.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def training(variant: str, settings: dict[str, int]) -> Callable[[], None]:
    """A function that makes one training step."""
    strategy, _, _ = variant.partition(",")
    every = EVERY[variant.removeprefix(strategy)]
    torch.manual_seed(0)
    model = sharded(strategy, Model(settings["width"], settings["layers"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rank, world = dist.get_rank(), dist.get_world_size()
    shape = (settings["local_size"], settings["context"])
    tokens = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(rank))
    monitor = None
    if every is not None:
        monitor = Monitor(
            module=model, every_n_steps=every, replicas=world, rank=rank, reduce=sum_over_ranks
        )
        monitor.watch(dict(model.named_parameters()))
    taken = [0]

    def loss_of_tokens() -> torch.Tensor:
        return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    def step() -> None:
        optimizer.zero_grad()
        if monitor is None:
            loss_of_tokens().backward()
        else:
            with monitor.micro_batch(size=len(tokens)):
                loss_of_tokens().backward()
            monitor.step()
        optimizer.step()
        taken[0] += 1
        if monitor is not None and taken[0] % LOGGED == 0:
            monitor.flush()

    return step


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
            steps[variant]()
            rows.append((number, variant, time.perf_counter() - start))
    return rows


def ratios(rows: Sequence[tuple[int, str, float]]) -> dict[str, tuple[float, float, float]]:
    """(median, low, high) of each variant, to its strategy without measuring."""
    found = {}
    for variant in VARIANTS:
        strategy, _, _ = variant.partition(",")
        found[variant] = ratio(rows, variant, base=strategy)
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[float, float, float]]:
    """Prints the table; (median, low, high) by variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tiny", action="store_true", help="a toy, for the test of this script")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    size = {"width": 384, "layers": 6, "context": 64}
    if args.tiny:
        size = {"width": 32, "layers": 1, "context": 8}
    os.environ[SETTINGS] = json.dumps({**size, "local_size": 4, "rounds": args.rounds})
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = launch("benchmarks.overhead_shards:rank", 2, Path(folder), timeout=3600)[0]
    finally:
        del os.environ[SETTINGS]
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("round", "variant", "seconds"))
            writer.writerows(rows)
    found = ratios(rows)
    print("| variant | step time, ratio [95 %] |\n|---|---|")
    for variant, (median, low, high) in found.items():
        print(f"| {variant} | {median:.4f} [{low:.4f}, {high:.4f}] |")
    return found


if __name__ == "__main__":
    main()
