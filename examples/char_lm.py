"""How large a batch is worth it for a small transformer that learns to write Python?

    python examples/char_lm.py
    python examples/char_lm.py --adaptive    # lets the noise scale set the accumulation
    tensorboard --logdir runs

The corpus is the source of Python's own standard library, read from this installation, one byte a
token: nothing is downloaded. An example, as counted by the batch size and by the noise scale, is a
sequence of --context bytes, not a byte.
"""

import argparse
import sysconfig
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale, TrackNoiseScale

VOCABULARY = 256
HEAD_WIDTH = 32
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def standard_library(most_bytes: int) -> Tensor:
    """The first ``most_bytes`` bytes of the standard library's source files in alphabetical order,
    uint8.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = (
        path
        for path in sorted(root.rglob("*.py"))
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)
    )
    corpus = bytearray()
    for path in paths:
        corpus += path.read_bytes()
        if len(corpus) >= most_bytes:
            break
    return torch.frombuffer(corpus[:most_bytes], dtype=torch.uint8)


class Blocks(Dataset[Tensor]):
    """A text cut into blocks that share only their border byte: each holds ``context`` bytes and
    the one that follows.
    """

    def __init__(self, text: Tensor, context: int) -> None:
        self.text, self.context = text, context

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.context

    def __getitem__(self, index: int) -> Tensor:
        start = index * self.context
        return self.text[start : start + self.context + 1].long()  # (context + 1,)


class SourceCode(L.LightningDataModule):
    """The corpus; its last twentieth is for validation."""

    def __init__(self, local_size: int, context: int, megabytes: float) -> None:
        super().__init__()
        self.local_size, self.context, self.megabytes = local_size, context, megabytes

    def setup(self, stage: str) -> None:
        text = standard_library(int(self.megabytes * 1e6))
        border = len(text) * 19 // 20
        self.train_set = Blocks(text[:border], self.context)
        self.val_set = Blocks(text[border:], self.context)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.local_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=64)


class Block(nn.Module):
    """Causal self-attention and a multilayer perceptron, each behind its own LayerNorm and beside a
    residual path.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = self.queries_keys_values(self.attention_norm(x)).unflatten(
            -1, (3, -1, HEAD_WIDTH)
        )  # (B, T, 3, heads, 32)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, 32)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attended(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class CharLM(L.LightningModule):
    """A pre-norm transformer that predicts the next byte; embedding and head share one matrix."""

    def __init__(self, width: int, layers: int, context: int, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.token.weight
        self.apply(_initialise)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(
            tokens
        )  # (B, T): a row for each example
        return self.head(
            self.norm(self.blocks(self.token(tokens) + self.position(places)))
        )  # (B, T, 256)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), prog_bar=True, sync_dist=True)

    def _loss(self, batch: Tensor) -> Tensor:
        """Nats a byte, the mean over bytes and sequences."""
        return F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parameters(), lr=self.hparams.learning_rate, betas=(0.9, 0.95)
        )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(
            module.weight, std=0.02
        )  # a tied head on torch's unit-variance embedding would start at huge logits
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="sequences in one micro-batch on one device"
    )
    parser.add_argument(
        "--accumulate", type=int, default=1, help="micro-batches in one optimizer step"
    )
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--width", type=int, default=128, help=f"a multiple of {HEAD_WIDTH}, the width of a head"
    )
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--context", type=int, default=64, help="bytes in a sequence")
    parser.add_argument("--corpus-megabytes", type=float, default=2.0)
    parser.add_argument(
        "--adaptive", action="store_true", help="let the noise scale set the batch size"
    )
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logdir", default="runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    if args.width % HEAD_WIDTH:
        parser.error(f"--width must be a multiple of {HEAD_WIDTH}, got {args.width}")
    return args


def main() -> None:
    args = parse()
    L.seed_everything(args.seed)
    # The corpus is in memory: workers would only take cores away from the training.
    warnings.filterwarnings(
        "ignore", message=".*does not have many workers", category=PossibleUserWarning
    )
    warnings.filterwarnings(
        "ignore", message=".*LeafSpec", category=FutureWarning
    )  # Lightning 2.6 on torch 2.13, not ours
    adaptive = AdaptiveBatchSize(TrackNoiseScale(), within_epoch=True) if args.adaptive else False
    trainer = L.Trainer(
        devices=args.devices,
        strategy=args.strategy,
        max_steps=args.steps,
        accumulate_grad_batches=args.accumulate,
        val_check_interval=args.accumulate * min(args.steps, 100),
        check_val_every_n_epoch=None,  # the interval above counts on across epochs
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=L.pytorch.loggers.TensorBoardLogger(args.logdir, name="char_lm"),
        callbacks=[GradientNoiseScale(adaptive_batch_size=adaptive, prog_bar=True)],
        enable_progress_bar=not args.quiet,
        enable_model_summary=False,
    )
    model = CharLM(args.width, args.layers, args.context, args.learning_rate)
    trainer.print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    trainer.fit(model, SourceCode(args.batch_size, args.context, args.corpus_megabytes))
    losses = [
        f"{name} {value:.3f}"
        for name, value in trainer.callback_metrics.items()
        if name.endswith("_loss")
    ]
    trainer.print(*losses, "nats a byte")
    trainer.print(f"to see it:  tensorboard --logdir {args.logdir}   (images, custom scalars)")


if __name__ == "__main__":
    main()
