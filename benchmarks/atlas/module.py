"""The LightningModule of the supervised tasks."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = Sequence[Tensor]
LossAndOutputs = Callable[[nn.Module, Batch], tuple[Tensor, Any]]


def sgd(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """Plain SGD."""
    return torch.optim.SGD(parameters, lr=rate)


def momentum(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """SGD with momentum 0.9."""
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9)


def adam(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """Adam with torch's defaults."""
    return torch.optim.Adam(parameters, lr=rate)


class Trained(L.LightningModule):
    """A network with a loss, trained at a constant rate; logs ``val_loss``.

    Args:
        net: the network.
        loss: (net, batch) → (mean loss of the batch, outputs of the network).
        optimizer: (parameters, rate) → optimizer.
        learning_rate: of the optimizer.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: LossAndOutputs,
        optimizer: Callable[[Any, float], torch.optim.Optimizer],
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.net, batch)[0], batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), self.learning_rate)


def classification(net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy, and logits."""
    logits = net(batch[0])
    return F.cross_entropy(logits, batch[1]), logits


def next_token(net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy in nats per token, and logits."""
    tokens = batch[0]
    logits = net(tokens[:, :-1])  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()), logits


def reconstruction(net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean squared error, and the reconstruction."""
    found = net(batch[0])
    return F.mse_loss(found, batch[0]), found


def loss_and_outputs(module: Trained, batch: Batch) -> tuple[Tensor, Any]:
    """What a Gauss-Newton matrix is made of."""
    return module.loss(module.net, batch)
