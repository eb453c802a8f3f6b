"""MNIST, CIFAR-10 and SVHN from files that the user has, in the folders that torchvision makes.

Nothing is downloaded. torchvision itself is not needed.
"""

import gzip
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor
from torch.utils.data import TensorDataset

VALIDATED = 1024  # images: enough for the mean of a loss, few enough to validate often
Split = tuple[Tensor, Tensor]  # images (n, channels, height, width) as bytes, labels (n,)


def mnist(folder: Path) -> tuple[Split, Split]:
    """Images (n, 1, 28, 28) from ``MNIST/raw``, plain or compressed (``.gz``)."""
    raw = folder / "MNIST" / "raw"
    splits = []
    for name in ("train", "t10k"):
        images = _idx(raw / f"{name}-images-idx3-ubyte")
        labels = _idx(raw / f"{name}-labels-idx1-ubyte")
        splits.append((images[:, None], labels.long()))
    return splits[0], splits[1]


def _idx(path: Path) -> Tensor:
    """An array of bytes in the IDX format: two zeros, type, dimensions, sizes, values."""
    compressed = path.with_name(f"{path.name}.gz")
    data = path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
    kind, dimensions = data[2], data[3]
    if data[:2] != b"\0\0" or kind != 8:
        raise ValueError(f"{path} must be an IDX file of unsigned bytes, got {data[:4]!r}.")
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start], dtype=">i4").tolist()
    values = np.frombuffer(data, dtype=np.uint8, offset=start).copy()
    return torch.from_numpy(values).view(shape)


def cifar10(folder: Path) -> tuple[Split, Split]:
    """Images (n, 3, 32, 32) from ``cifar-10-batches-py``, whose files are pickles: use your own."""
    batches = folder / "cifar-10-batches-py"
    train = [_cifar(batches / f"data_batch_{number}") for number in range(1, 6)]
    images, labels = zip(*train, strict=True)
    return (torch.cat(images), torch.cat(labels)), _cifar(batches / "test_batch")


def _cifar(path: Path) -> Split:
    with path.open("rb") as file:
        found: dict[str, Any] = pickle.load(file, encoding="latin1")
    images = torch.from_numpy(np.asarray(found["data"], dtype=np.uint8))
    return images.view(-1, 3, 32, 32), torch.tensor(found["labels"])


def svhn(folder: Path) -> tuple[Split, Split]:
    """Images (n, 3, 32, 32) from ``train_32x32.mat`` and ``test_32x32.mat``; 10 stands for 0."""
    return _svhn(folder / "train_32x32.mat"), _svhn(folder / "test_32x32.mat")


def _svhn(path: Path) -> Split:
    found = loadmat(path)
    images = torch.from_numpy(found["X"]).permute(3, 2, 0, 1).contiguous()
    labels = torch.from_numpy(found["y"].astype(np.int64)).view(-1) % 10
    return images, labels


READERS: dict[str, tuple[Callable[[Path], tuple[Split, Split]], str]] = {
    "MNIST": (mnist, "MNIST/raw"),
    "CIFAR10": (cifar10, "cifar-10-batches-py"),
    "SVHN": (svhn, "train_32x32.mat"),
}


def available(folder: Path) -> list[str]:
    """Names of the data sets that a folder has."""
    return [name for name, (_, place) in READERS.items() if (folder / place).exists()]


@cache
def datasets(name: str, folder: Path) -> tuple[TensorDataset, TensorDataset]:
    """Images between 0 and 1 to train on, and VALIDATED others of the test images."""
    read, _ = READERS[name]
    train, test = read(folder)
    order = torch.randperm(len(test[1]), generator=torch.Generator().manual_seed(0))
    chosen = order[:VALIDATED]
    return _dataset(*train), _dataset(test[0][chosen], test[1][chosen])


def _dataset(images: Tensor, labels: Tensor) -> TensorDataset:
    return TensorDataset(images.float() / 255, labels)
