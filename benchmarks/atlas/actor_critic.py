"""Advantage actor-critic on the frames of ``rollouts``."""

import lightning as L
import torch
from torch import Tensor

from benchmarks.atlas.module import adam
from benchmarks.atlas.rollouts import Frames, Rollouts

OF_VALUES, OF_ENTROPY = 0.5, 0.01  # weights in the loss


class ActorCritic(L.LightningModule):
    """A policy and a critic, with Adam at a constant rate; logs ``mean_return``.

    It acts in the environments of its training loader, that of ``Rollouts``. A subclass has the
    networks, and ``forward``: observations to logits of the actions (B, actions) and values (B,).
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate

    def on_train_start(self) -> None:
        self.rollouts.follow(self, self.trainer.accumulate_grad_batches)

    def on_train_batch_start(self, batch: Frames, batch_idx: int) -> None:
        self.log("mean_return", self.rollouts.mean_return)

    def training_step(self, batch: Frames, batch_idx: int) -> Tensor:
        return self.losses(batch).mean()

    def losses(self, batch: Frames) -> Tensor:
        """Of every frame (B,), none depends on another frame of the batch."""
        observations, actions, returns, alive = batch
        logits, values = self(observations)
        logs = logits.log_softmax(-1)
        chosen = logs.gather(-1, actions[..., None])[..., 0]
        advantages = returns - values
        entropies = -(logs.exp() * logs).sum(-1)
        of_policy = -chosen * advantages.detach()
        of_values = advantages.square() / 2
        return alive * (of_policy + OF_VALUES * of_values - OF_ENTROPY * entropies)

    @property
    def rollouts(self) -> Rollouts:
        """Of the training loader."""
        return self.trainer.train_dataloader.dataset

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self.parameters(), self.learning_rate)
