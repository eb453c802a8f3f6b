"""How large a batch is worth it for a small CNN on handwritten digits?

    python examples/digits.py
    python examples/digits.py --batch-size 16 --adaptive    (examples/adaptive.py shows more of it)
    tensorboard --logdir runs

The data are scikit-learn's bundled digits (1797 images of 8 x 8 pixels): nothing is downloaded.
"""

import argparse

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_noise import GradientNoiseScale

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    fix = "Run pip install -e '.[examples]' in the repository"
    raise SystemExit(f"{fix}: the data come with scikit-learn, which is missing.") from error


class DigitsData(L.LightningDataModule):
    """Images scaled to 0..1, shuffled once: 1437 to train on, 360 to validate on."""

    def __init__(self, local_size: int) -> None:
        super().__init__()
        self.local_size = local_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.train_set = TensorDataset(images[order[:1437]], labels[order[:1437]])
        self.val_set = TensorDataset(images[order[1437:]], labels[order[1437:]])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.local_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=360)


class DigitsNet(L.LightningModule):
    """A small CNN without BatchNorm, trained with plain SGD."""

    def __init__(self, learning_rate: float, momentum: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.accuracy(logits, labels)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels), sync_dist=True)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.parameters(), lr=self.hparams.learning_rate, momentum=self.hparams.momentum
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="examples in one micro-batch on one device"
    )
    parser.add_argument(
        "--accumulate", type=int, default=1, help="micro-batches in one optimizer step"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument(
        "--adaptive",
        action="store_true",
        help="let the noise scale set the batch size between epochs",
    )
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logdir", default="runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args()


def main() -> None:
    args = parse()
    L.seed_everything(args.seed)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=args.devices,
        strategy=args.strategy,
        max_epochs=args.epochs,
        accumulate_grad_batches=args.accumulate,
        log_every_n_steps=10,
        logger=L.pytorch.loggers.TensorBoardLogger(args.logdir, name="digits"),
        callbacks=[GradientNoiseScale(adaptive_batch_size=args.adaptive, prog_bar=True)],
        enable_model_summary=False,
        enable_progress_bar=not args.quiet,
    )
    trainer.fit(DigitsNet(args.learning_rate), DigitsData(args.batch_size))
    trainer.print(f"to see it:  tensorboard --logdir {args.logdir}   (images, custom scalars)")


if __name__ == "__main__":
    main()
