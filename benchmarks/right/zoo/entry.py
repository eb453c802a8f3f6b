"""A model of the zoo: how it is built, what it trains on, and its loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]
EXAMPLES = 6  # unlike the lengths, widths and numbers of heads, so that no dimension is mistaken


class Entry(NamedTuple):
    """One model.

    Args:
        name: unique in the zoo.
        package: that defines the model, as it is imported; "torch" for models written here from
            the layers of ``torch.nn``.
        build: makes the model with random weights.
        draw: makes a batch of so many examples: tensors with the examples along dimension 0.
        loss: (model, batch) → mean over the examples of the batch, unless the loss itself couples
            them.
    """

    name: str
    package: str
    build: Callable[[], nn.Module]
    draw: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]


class Trained(L.LightningModule):
    """Trains an entry's model with a learning rate of 0: all steps have the same gradient."""

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = stirred(without_randomness(entry.build()).train())
        self.entry_loss = entry.loss

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the batch."""
        return self.entry_loss(self.model, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.0)


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    """Moves all parameters a little: a head or a scale that begins at zero would hide the gradients
    of everything before it.
    """
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


RATES = (
    "dropout",
    "dropout_prob",
    "drop_prob",
    "attention_dropout",
    "activation_dropout",
    "attn_dropout",
    "drop_rate",
    "layerdrop",
)


def without_randomness(model: nn.Module) -> nn.Module:
    """Sets every dropout rate to 0, in the layers and where a function reads it from its module.

    A forward pass over one example draws other masks than one over the batch, so that a loop over
    single examples would be no oracle.
    """
    for part in model.modules():
        kind = type(part).__name__
        names = (*RATES, "p") if "Drop" in kind or "Depth" in kind else RATES
        for name in names:
            if isinstance(vars(part).get(name), float):
                setattr(part, name, 0.0)
    return model


def drawn(entry: Entry) -> Batch:
    """The batch of an entry, from a fixed seed."""
    torch.manual_seed(1)
    return entry.draw(EXAMPLES)


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating-point tensors in another precision."""
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in batch)


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Some of the examples of a batch."""
    return tuple(t[start:stop] for t in batch)


def as_logits(output: Any) -> Tensor:
    """The output of a classifier, wherever its package puts it."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):
        return as_logits(output[0])
    if isinstance(output, dict) and "out" in output:  # torchvision's segmentation models
        return output["out"]
    return output.logits
