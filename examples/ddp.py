"""The noise scale in a plain torch DDP loop, without Lightning's Trainer: two processes,
handwritten digits.

    python examples/ddp.py

Two ways side by side, and they agree: `Monitor` with the `Ranks` probe does everything;
`NoiseScaleMetric` takes squared norms that the loop computes itself, in a communication hook of its
own. With Lightning all of this is one argument:

    python examples/digits.py --devices 2 --strategy ddp_noise --batch-size 16 --accumulate 1
"""

import argparse
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_noise import Monitor, NoiseScaleMetric, Ranks
from lightning_noise.probes.ranks import BucketTap, mean_hook

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    fix = "Run pip install -e '.[examples]' in the repository"
    raise SystemExit(f"{fix}: the data come with scikit-learn, which is missing.") from error


class LocalNorm:
    """|g|² of this rank's gradient, summed over DDP's buckets before they are reduced."""

    def __init__(self) -> None:
        self.square = torch.zeros((), dtype=torch.float64)

    def __call__(self, bucket: dist.GradBucket) -> None:
        self.square += bucket.buffer().double().square().sum()

    def take(self) -> torch.Tensor:
        square, self.square = self.square, torch.zeros((), dtype=torch.float64)
        return square


def sum_over_ranks(table: torch.Tensor) -> torch.Tensor:
    dist.all_reduce(table)
    return table


def train(rank: int, world_size: int, port: int, epochs: int, local_size: int) -> None:
    """What each process does."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    torch.manual_seed(1)
    digits = load_digits()
    data = TensorDataset(
        torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    )
    sampler = DistributedSampler(data, world_size, rank)
    loader = DataLoader(data, batch_size=local_size, sampler=sampler, drop_last=True)

    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)

    tap, own = BucketTap(), LocalNorm()
    hook = tap.before(mean_hook(None))  # DDP's own average, with a tap in front

    def tapped(state, bucket):  # torch takes one hook only; anything may stand before it
        own(bucket)
        return hook(state, bucket)

    ddp.register_comm_hook(None, tapped)
    monitor = Monitor(
        Ranks(tap), decay=0.99999, replicas=world_size, rank=rank, reduce=sum_over_ranks
    )
    metric = NoiseScaleMetric()

    with monitor.attach(dict(ddp.named_parameters())):
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for x, y in loader:
                optimizer.zero_grad()
                with monitor.micro_batch(size=len(x)):
                    nn.functional.cross_entropy(ddp(x), y).backward()
                monitor.step()
                mean_square = sum(p.grad.double().square().sum() for p in net.parameters())
                r, b = world_size, len(x)
                metric.update(
                    own.take() / r, mean_square / r, 1 / (r * b), 1 / (r * r * b)
                )  # this rank's part of the step
                optimizer.step()
            monitor.flush()
    values = {name: float(value) for name, value in metric.compute().items()}
    if rank == 0:
        print(f"Monitor:          {monitor.estimate()}")
        print(f"NoiseScaleMetric: {values}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="examples on one rank")
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(train, args=(args.ranks, port, args.epochs, args.batch_size), nprocs=args.ranks)


if __name__ == "__main__":
    main()
