"""The critical batch size of a small network on handwritten digits, for three optimizers.

    python examples/study_digits.py            # five minutes on two cores; continues after a stop
    python examples/study_digits.py --quick    # seconds: to check that everything works

SGD, momentum and Nesterov momentum are a study each: at eight batch sizes the learning rate is
searched by successive halving over seeds, the winner is run again with fresh seeds, and
S(B) = S_min (1 + B_crit/B) is fitted to the steps. Two goals are read from the same runs: an easy
one, early in training, and a hard one.
The data are scikit-learn's bundled digits: nothing is downloaded.
"""

import argparse
from functools import partial
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
    Workers,
    run_all,
)

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    fix = "Run pip install -e '.[examples,study]' in the repository"
    raise SystemExit(f"{fix}: the data come with scikit-learn, which is missing.") from error

SIZES = (4, 8, 16, 32, 64, 128, 256, 512)
OPTIMIZERS = {  # its arguments, and the best learning rate of a large batch, roughly
    "SGD": ({}, 1.0),
    "momentum": ({"momentum": 0.9}, 0.4),
    "Nesterov": ({"momentum": 0.9, "nesterov": True}, 0.4),
}
TARGETS = {"early": 1.0, "late": 0.25}
FULL = {
    "batch_sizes": SIZES,
    "search": Search(trials=16, seeds=8),
    "budget": Budget(examples=100_000, steps=1_500),
    "workers": Workers(count=2),
}
QUICK = {
    "batch_sizes": SIZES[4:8],
    "search": Search(trials=2, seeds=1),
    "budget": Budget(examples=20_000, steps=1_500),
    "workers": Workers(count=0),
}


class DigitsMLP(L.LightningModule):
    """One hidden layer of 64 units."""

    def __init__(self, learning_rate: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        chosen = self.hparams
        return torch.optim.SGD(
            self.parameters(),
            lr=chosen.learning_rate,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov,
        )


def make_module(fixed: dict[str, object], searched: dict[str, float]) -> L.LightningModule:
    return DigitsMLP(**fixed, **searched)


def make_data(global_size: int, seed: int) -> tuple[DataLoader, DataLoader]:
    """1437 images to train on and 360 to validate on, always the same.

    ``seed`` orders the training images.
    """
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train = TensorDataset(images[order[:1437]], labels[order[:1437]])
    # whole batches are taken out of the tensors at once: much faster than example by example
    shuffled = RandomSampler(train, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(shuffled, global_size, drop_last=True)
    val = DataLoader(TensorDataset(images[order[1437:]], labels[order[1437:]]), batch_size=360)
    return DataLoader(train, sampler=batches, batch_size=None), val


def make_study(quick: bool = False) -> list[BatchSizeStudy]:
    """One study per optimizer; ``quick`` has few short runs, which show only that it works."""
    settings = QUICK if quick else FULL
    studies = []
    for name, (fixed, eps_max) in OPTIMIZERS.items():
        goals = []
        for when, target in TARGETS.items():
            goals.append(Goal(metric="val_loss", target=target, name=f"{name}, {when}"))
        rates = CentredLearningRate(eps_max=eps_max, b=32, spread=2 if quick else 6)
        study = BatchSizeStudy(
            make_module=partial(make_module, fixed),
            make_data=make_data,
            goal=goals,
            search_space={"learning_rate": rates},
            storage="runs/study_digits.journal",
            name=f"{name}, quick" if quick else name,
            validate_every=100,
            noise_scale={"probe": "examples"},
            **settings,
        )
        studies.append(study)
    return studies[:1] if quick else studies


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--quick", action="store_true", help="a few small runs")
    out = "folder for everything that is written"
    parser.add_argument("--out", type=Path, default=Path("runs/study_digits"), help=out)
    drawn = "also draw the figures (needs matplotlib)"
    parser.add_argument("--figures", action="store_true", help=drawn)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result = run_all(make_study(args.quick), storage=args.out / "study_digits.journal")
    result.to_csv(args.out / "study_digits.csv")
    (args.out / "study_digits.txt").write_text(result.summary() + "\n")
    print(result.summary())
    if args.figures:
        print(*result.figures(args.out), sep="\n")


if __name__ == "__main__":
    main()
