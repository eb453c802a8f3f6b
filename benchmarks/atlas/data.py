"""Data of the tasks: everything is in scikit-learn or in Python's own installation."""

from functools import cache

import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.harness.examples import standard_library

CORPUS_BYTES = 1_000_000
CONTEXT = 32  # bytes of a sequence
PATCHES = 20_000
VALIDATED = 256  # patches
VALIDATED_SEQUENCES = 128


def loaders(
    train: TensorDataset, val: TensorDataset, global_size: int, seed: int
) -> tuple[DataLoader, DataLoader]:
    """Shuffled whole batches to train on, and all of ``val`` as one batch.

    Batches are taken out of the tensors at once: much faster than example by example.
    """
    whole = [tuple(val.tensors)]
    order = RandomSampler(train, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(order, global_size, drop_last=True)
    training = DataLoader(train, sampler=batches, batch_size=None)
    return training, DataLoader(whole, batch_size=None)


@cache
def digits() -> tuple[TensorDataset, TensorDataset]:
    """1437 images (1, 8, 8) between 0 and 1 to train on and 360 to validate on, with labels."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    first, rest = order[:1437], order[1437:]
    return TensorDataset(images[first], labels[first]), TensorDataset(images[rest], labels[rest])


@cache
def patches() -> tuple[TensorDataset, TensorDataset]:
    """Grey patches (64,) of two photographs, without their mean, in units of their deviation.

    Patches to train on are from the upper three quarters of the photographs.
    """
    generator = torch.Generator().manual_seed(0)
    trained, validated = [], []
    for image in load_sample_images().images:
        grey = torch.tensor(image, dtype=torch.float32).mean(-1) / 255  # (427, 640)
        border = len(grey) * 3 // 4
        trained.append(_random_patches(grey[:border], PATCHES // 2, generator))
        validated.append(_random_patches(grey[border:], VALIDATED // 2, generator))
    train, val = torch.cat(trained), torch.cat(validated)
    deviation = train.std()
    return TensorDataset(train / deviation), TensorDataset(val / deviation)


def _random_patches(grey: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Patches of 8 × 8 pixels at random places, each without its mean, (number, 64)."""
    windows = grey.unfold(0, 8, 1).unfold(1, 8, 1)  # (rows, columns, 8, 8)
    rows = torch.randint(windows.shape[0], (number,), generator=generator)
    columns = torch.randint(windows.shape[1], (number,), generator=generator)
    chosen = windows[rows, columns].flatten(1)
    return chosen - chosen.mean(1, keepdim=True)


@cache
def sequences() -> tuple[TensorDataset, TensorDataset]:
    """Sequences of CONTEXT + 1 bytes of Python's standard library.

    The first 19 twentieths of the corpus are trained on, and VALIDATED_SEQUENCES of the rest are
    validated on.
    """
    text = standard_library(CORPUS_BYTES).long()
    cut = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    border = len(cut) * 19 // 20
    rest = cut[border:]
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))
    return TensorDataset(cut[:border]), TensorDataset(rest[order[:VALIDATED_SEQUENCES]])
