"""The critical batch size of a small CNN on handwritten digits, by its validation accuracy.

    python examples/study_cnn.py            # ten minutes on two cores; continues after a stop
    python examples/study_cnn.py --quick    # seconds: to check that everything works

The goal is an accuracy of 95 % (a metric to be maximised), and easier goals are read from the same
runs. A budget that ends runs before the goal would bias the fit, so it leaves every batch size
several times the steps that it needs; the script prints which share of the reruns reached it. The
data are scikit-learn's bundled digits: nothing is downloaded.
"""

import argparse
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_noise.study import (
    BatchSizeStudy,
    Budget,
    CentredLearningRate,
    Goal,
    Search,
    StudyResult,
    Workers,
)

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    fix = "Run pip install -e '.[examples,study]' in the repository"
    raise SystemExit(f"{fix}: the data come with scikit-learn, which is missing.") from error

SIZES = (8, 16, 32, 64, 128, 256)
GOAL = Goal(metric="val_acc", target=0.95, mode="max")
EASIER = [Goal(metric="val_acc", target=target, mode="max") for target in (0.8, 0.85, 0.9)]
FULL = {
    "batch_sizes": SIZES,
    "search": Search(trials=12, seeds=5),
    "budget": Budget(examples=60_000, steps=1_000),
    "workers": Workers(count=2),
}
QUICK = {
    "batch_sizes": SIZES[3:5],
    "search": Search(trials=2, seeds=1, widen=0),
    "budget": Budget(examples=30_000),
    "workers": Workers(count=0),
}


class DigitsCNN(L.LightningModule):
    """Two convolutions and a linear layer."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        right = self.net(batch[0]).argmax(1) == batch[1]
        self.log("val_acc", right.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate, momentum=0.9)


def make_module(parameters: dict[str, float]) -> L.LightningModule:
    return DigitsCNN(**parameters)


def make_data(global_size: int, seed: int) -> tuple[DataLoader, DataLoader]:
    """1197 images to train on and 600 to validate on, always the same.

    ``seed`` orders the training images.
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train = TensorDataset(images[order[:1197]], labels[order[:1197]])
    shuffled = RandomSampler(train, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(shuffled, global_size, drop_last=True)
    val = DataLoader(TensorDataset(images[order[1197:]], labels[order[1197:]]), batch_size=600)
    return DataLoader(train, sampler=batches, batch_size=None), val


def make_study(quick: bool = False) -> BatchSizeStudy:
    """``quick`` has few short runs, which show only that it works."""
    return BatchSizeStudy(
        make_module=make_module,
        make_data=make_data,
        goal=GOAL,
        further_goals=EASIER,
        search_space={"learning_rate": CentredLearningRate(eps_max=0.2, b=64, spread=5)},
        storage="runs/study_cnn.journal",
        name="cnn, quick" if quick else "cnn",
        validate_every=200,
        noise_scale={"probe": "examples"},
        **(QUICK if quick else FULL),
    )


def shares_reached(result: StudyResult) -> dict[int, str]:
    """Batch size → how many of its reruns reached the goal."""
    found: dict[int, list[bool]] = {}
    for row in result.table:
        if row["goal"] == GOAL.name and row["phase"] == "rerun":
            found.setdefault(row["global_size"], []).append(row["status"] == "reached")
    return {size: f"{sum(reached)} of {len(reached)}" for size, reached in found.items()}


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--quick", action="store_true", help="a few small runs")
    out = "folder for everything that is written"
    parser.add_argument("--out", type=Path, default=Path("runs/study_cnn"), help=out)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result = make_study(args.quick).run(storage=args.out / "study_cnn.journal")
    result.to_csv(args.out / "study_cnn.csv")
    print(result.summary())
    print("reruns that reached the goal:", shares_reached(result))


if __name__ == "__main__":
    main()
