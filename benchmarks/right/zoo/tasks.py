"""Batches and losses that the entries share. Every loss is a mean over the examples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.right.zoo.entry import Batch, as_logits

CLASSES, WORDS = 10, 50


def images(size: int = 32, channels: int = 3) -> Callable[[int], Batch]:
    """Images and their classes."""
    return lambda n: (torch.randn(n, channels, size, size), torch.randint(CLASSES, (n,)))


def volumes(size: int = 16, channels: int = 1) -> Callable[[int], Batch]:
    """Volumes and a target of the same shape."""
    shape = (channels, size, size, size)
    return lambda n: (torch.randn(n, *shape), torch.randn(n, *shape))


def clips(frames: int = 4, size: int = 32) -> Callable[[int], Batch]:
    """Short clips and their classes."""
    return lambda n: (torch.randn(n, 3, frames, size, size), torch.randint(CLASSES, (n,)))


def pictures(size: int = 32, channels: int = 3) -> Callable[[int], Batch]:
    """Images and a target of the same shape."""
    return lambda n: (torch.randn(n, channels, size, size), torch.randn(n, channels, size, size))


def masks(size: int = 32) -> Callable[[int], Batch]:
    """Images and a class for every pixel."""
    return lambda n: (torch.randn(n, 3, size, size), torch.randint(CLASSES, (n, size, size)))


def words(length: int = 9) -> Callable[[int], Batch]:
    """Sequences of tokens."""
    return lambda n: (torch.randint(3, WORDS, (n, length)),)


def sentences(length: int = 9) -> Callable[[int], Batch]:
    """Sequences of tokens and their classes."""
    return lambda n: (torch.randint(3, WORDS, (n, length)), torch.randint(CLASSES, (n,)))


def translations(source: int = 9, target: int = 7) -> Callable[[int], Batch]:
    """Pairs of sequences."""
    return lambda n: (
        torch.randint(3, WORDS, (n, source)),
        torch.randint(3, WORDS, (n, target)),
    )


def numbers(*shape: int) -> Callable[[int], Batch]:
    """Features and their classes."""
    return lambda n: (torch.randn(n, *shape), torch.randint(CLASSES, (n,)))


def classify(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of one class per example, or per pixel."""
    return F.cross_entropy(as_logits(model(batch[0])), batch[-1])


def imitate(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared distance to the target."""
    output = model(batch[0])
    while isinstance(output, tuple | list):  # with deep supervision, the finest first
        output = output[0]
    return F.mse_loss(output, batch[1])


def continue_words(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the next token."""
    return next_words(as_logits(model(batch[0])), batch[0])


def next_words(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next tokens under logits of shape (B, T, words)."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def tag_words(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of every token itself, as masked language models are trained."""
    return F.cross_entropy(as_logits(model(batch[0])).flatten(0, 1), batch[0].flatten())


def translate(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the next token of the target."""
    output = model(input_ids=batch[0], decoder_input_ids=batch[1])
    return next_words(output.logits, batch[1])
