"""scikit-learn's digits and the CNN of ``examples/digits.py``."""

import sys
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks.harness.spec import HOME

if str(HOME / "examples") not in sys.path:
    sys.path.append(str(HOME / "examples"))  # scripts, not a package

from digits import DigitsNet

__all__ = ["DigitsNet", "loss_and_logits", "loss_of", "split_digits"]


def split_digits(trained: int, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Images (N, 1, 8, 8) and labels (N,): ``trained`` to train on, the others to measure."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
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
