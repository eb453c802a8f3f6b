"""The noise scale of a sharded model: FSDP and FSDP2 on scikit-learn's digits.

    python examples/fsdp.py                                    # two processes, on CPU too
    python examples/fsdp.py --strategy fsdp_noise --devices 4
    torchrun --nproc-per-node 2 examples/fsdp.py

On GPUs the callback needs no strategy of its own: it measures with Lightning's `fsdp` and with its
`ModelParallelStrategy`. `fsdp_noise` runs on CPU as well, and `model_parallel_noise` is data
parallel without being told so.
"""

import argparse

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import GradientNoiseScale, NoiseFSDPStrategy

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    fix = "Run pip install -e '.[examples]' in the repository"
    raise SystemExit(f"{fix}: the data come with scikit-learn, which is missing.") from error


class Block(nn.Module):
    """A residual layer, sharded as one unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x)).relu()


class Classifier(L.LightningModule):
    """Four blocks between two linear layers."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        blocks = [Block(width) for _ in range(4)]
        self.net = nn.Sequential(nn.Linear(64, width), *blocks, nn.Linear(width, 10))

    def configure_model(self) -> None:
        """Shards the module for FSDP2; FSDP wraps it by itself, and has no mesh here."""
        if self.device_mesh is None or isinstance(self.net, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for part in self.net:
            if isinstance(part, Block):
                fully_shard(part, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def digits(local_size: int) -> DataLoader:
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    return DataLoader(
        TensorDataset(images, torch.tensor(data.target)), batch_size=local_size, shuffle=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["model_parallel_noise", "fsdp_noise"]
    parser.add_argument("--strategy", choices=names, default=names[0])
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16, help="examples on one device")
    parser.add_argument("--adaptive", action="store_true", help="let the batch size follow")
    args = parser.parse_args()

    L.seed_everything(1, verbose=False)
    strategy = args.strategy
    if strategy == "fsdp_noise":
        strategy = NoiseFSDPStrategy(auto_wrap_policy={Block}, state_dict_type="sharded")
    trainer = L.Trainer(
        accelerator=args.accelerator,
        devices=args.devices,
        strategy=strategy,
        max_epochs=args.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[GradientNoiseScale(per_layer=2, adaptive_batch_size=args.adaptive)],
    )
    trainer.fit(Classifier(), digits(args.batch_size))


if __name__ == "__main__":
    main()
