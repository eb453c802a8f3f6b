"""CartPole with advantage actor-critic: a batch is frames in which the current weights have acted.

An example is one frame. Frames of one episode are correlated, also those of a segment in one batch,
as in McCandlish et al. 2018, whose noise scales of games count frames, too. The 8 micro-batches of
a measured step come from different environments, so that the groups that are compared share no
episode: B_simple holds what the correlation within a segment adds to the noise of a batch.
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.atlas.module import adam
from benchmarks.atlas.rollouts import Frames, Rollouts
from benchmarks.atlas.task import EARLY, LATE, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal, Search

WIDTH = 64
OF_VALUES, OF_ENTROPY = 0.5, 0.01  # weights in the loss
# A study takes a loss of more than eleven times the first one for divergence. The other terms lie
# on both sides of 0, where such a factor says nothing. A constant has no gradient.
LEVEL = 1.0
RETURNS = {EARLY: 60.0, LATE: 195.0}


class ActorCritic(L.LightningModule):
    """A policy and a critic, with Adam at a constant rate; logs ``mean_return``.

    It acts in the environments of its training loader, that of ``Rollouts``.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.policy = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))
        self.critic = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the actions (B, 2), and values (B,)."""
        return self.policy(observations), self.critic(observations)[..., 0]

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
        return LEVEL + alive * (of_policy + OF_VALUES * of_values - OF_ENTROPY * entropies)

    @property
    def rollouts(self) -> Rollouts:
        """Of the training loader."""
        return self.trainer.train_dataloader.dataset

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self.parameters(), self.learning_rate)


def make_module(parameters: dict[str, float]) -> ActorCritic:
    """There is nothing to choose but the rate."""
    return ActorCritic(**parameters)


def make_data(global_size: int, seed: int) -> DataLoader[Any]:
    """``seed`` draws first observations and actions; a batch of ``global_size`` frames."""
    return Rollouts(global_size, seed).loader()


TASKS = (
    Task(
        name="cartpole_adam",
        title="CartPole, actor-critic, Adam",
        optimizer="Adam",
        make_module=make_module,
        make_data=make_data,
        goals=(
            Goal(metric="mean_return", target=RETURNS[LATE], mode="max", on="train", name=LATE),
        ),
        further_goals=(
            Goal(metric="mean_return", target=RETURNS[EARLY], mode="max", on="train", name=EARLY),
        ),
        sizes=(64, 128, 256, 512, 1024, 2048, 4096),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.025, b=1000, alpha=0.5, spread=3)
        },
        budget=Budget(examples=600_000, steps=3_000),
        search=Search(trials=8, seeds=5, widen=1),
        geometries=("optimizer",),
        unit="frames",
    ),
)
