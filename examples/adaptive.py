"""Let the noise scale set the batch size, and see beside it what a fixed one needs.

    python examples/adaptive.py
    python examples/adaptive.py --batch-size 4 --learning-rate 0.0125 --waste 1
    python examples/adaptive.py --policy exchange --rate 512 --schedule one-cycle
    tensorboard --logdir runs

A small CNN on scikit-learn's digits starts at --batch-size, which grows between epochs; each change
is printed with its reason. With --compare the same model is trained once more at the fixed size,
for as many epochs.
"""

import argparse

import lightning as L
import torch
from digits import DigitsData, DigitsNet

from lightning_noise import (
    AdaptiveBatchSize,
    ExchangeRate,
    GradientNoiseScale,
    LeastTime,
    TrackNoiseScale,
)

TRAIN_EXAMPLES = 1437


class ScheduledNet(DigitsNet):
    """The CNN with a learning rate schedule by steps, which ends when training does."""

    def __init__(
        self, learning_rate: float, momentum: float, schedule: str, total_steps: int
    ) -> None:
        super().__init__(learning_rate, momentum)
        self.schedule, self.total_steps = schedule, total_steps

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if self.schedule == "none":
            return optimizer
        if self.schedule == "cosine":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.total_steps)
        else:
            peak = self.hparams.learning_rate
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, peak, self.total_steps, cycle_momentum=False
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=16, help="at the start")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--learning-rate", type=float, default=0.05, help="for the size at the start"
    )
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--schedule", choices=["none", "one-cycle", "cosine"], default="none")
    parser.add_argument("--policy", choices=["time", "track", "exchange"], default="time")
    parser.add_argument(
        "--waste", type=float, default=0.5, help="size per noise scale at most, for --policy time"
    )
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="of the noise scale, for --policy track"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=256,
        help="examples that a step is worth, for --policy exchange",
    )
    parser.add_argument(
        "--greatest", type=int, help="no larger global size than this, for track and exchange"
    )
    parser.add_argument(
        "--max-local-size", type=int, help="beyond this, micro-batches are accumulated"
    )
    parser.add_argument(
        "--advise-only", action="store_true", help="say what would be done and do nothing"
    )
    parser.add_argument("--compare", action="store_true", help="train once more at the fixed size")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logdir", default="runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args()


def settings(args: argparse.Namespace) -> AdaptiveBatchSize:
    if args.policy == "time":
        policy = LeastTime(args.waste)
    elif args.policy == "track":
        policy = TrackNoiseScale(args.fraction, greatest=args.greatest)
    else:
        policy = ExchangeRate(args.rate, greatest=args.greatest)
    return AdaptiveBatchSize(
        policy, max_local_size=args.max_local_size, advise_only=args.advise_only
    )


def train(args: argparse.Namespace, noise: GradientNoiseScale, name: str) -> L.Trainer:
    L.seed_everything(args.seed, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=args.epochs,
        log_every_n_steps=5,
        logger=L.pytorch.loggers.TensorBoardLogger(args.logdir, name=name),
        callbacks=[noise],
        enable_model_summary=False,
        enable_progress_bar=not args.quiet,
    )
    steps = args.epochs * -(-TRAIN_EXAMPLES // args.batch_size)
    module = ScheduledNet(args.learning_rate, args.momentum, args.schedule, steps)
    trainer.fit(module, DigitsData(args.batch_size))
    return trainer


def main() -> None:
    args = parse()
    runs = {
        "adaptive": train(args, GradientNoiseScale(adaptive_batch_size=settings(args)), "adaptive")
    }
    if args.compare:
        runs["fixed"] = train(args, GradientNoiseScale(), "fixed")
    for name, trainer in runs.items():
        found = " ".join(
            f"{key} {trainer.callback_metrics[key]:.4f}"
            for key in ("train_loss", "val_loss", "val_accuracy")
        )
        trainer.print(f"{name}: {trainer.global_step} steps, {found}")
    trainer.print(f"to see it:  tensorboard --logdir {args.logdir}   (images, custom scalars)")


if __name__ == "__main__":
    main()
