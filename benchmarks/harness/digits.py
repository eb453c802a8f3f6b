"""scikit-learn's digits and the CNN of ``examples/digits.py``."""

from collections.abc import Sequence
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks.harness.examples import DigitsNet

__all__ = ["DigitsNet", "digits", "loss_and_logits", "loss_of", "split_digits"]


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) between 0 and 1, and labels (1797,)."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(found.target)


def split_digits(trained: int, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Images (N, 1, 8, 8) and labels (N,): ``trained`` to train on, the others to measure."""
    images, labels = digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:trained], order[trained:]
    return TensorDataset(images[first], labels[first]), TensorDataset(images[rest], labels[rest])


def loss_and_logits(module: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(cross entropy, mean over the batch; logits)."""
    logits = module.net(batch[0])  # type: ignore[operator]  # nn.Module does not declare net
    return F.cross_entropy(logits, batch[1]), logits


def loss_of(module: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Cross entropy, mean over the batch."""
    return loss_and_logits(module, batch)[0]
