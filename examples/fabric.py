"""The noise scale in a training loop with Lightning Fabric, on scikit-learn's digits.

python examples/fabric.py --accumulation 4
python examples/fabric.py --devices 2          # two processes on this machine
"""

import argparse

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise.hosts.fabric import FabricNoiseScale

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    fix = "Run pip install -e '.[examples]' in the repository"
    raise SystemExit(f"{fix}: the data come with scikit-learn, which is missing.") from error


def digits(batch_size: int) -> DataLoader:
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=torch.float32)
    return DataLoader(
        TensorDataset(x, torch.tensor(data.target)), batch_size, shuffle=True, drop_last=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()

    fabric = Fabric(
        accelerator="cpu",
        devices=arguments.devices,
        strategy="ddp" if arguments.devices > 1 else "auto",
    )
    fabric.launch()
    fabric.seed_everything(0, verbose=False)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loader = fabric.setup_dataloaders(digits(arguments.batch_size))
    count = arguments.accumulation

    noise = FabricNoiseScale(fabric, model, optimizer, accumulation=count)
    with noise.open():
        for epoch in range(arguments.epochs):
            for index, (x, y) in enumerate(loader):
                last = (index + 1) % count == 0
                noise.batch((x, y))
                with fabric.no_backward_sync(model, enabled=not last):
                    loss = nn.functional.cross_entropy(model(x), y) / count
                    noise.backward(loss, last=last)
                if last:
                    optimizer.step()
                    optimizer.zero_grad()
            values = noise.log(epoch)
            fabric.print(
                f"epoch {epoch}: "
                + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            )


if __name__ == "__main__":
    main()
