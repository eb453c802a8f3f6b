"""CartPole with advantage actor-critic: a batch is frames in which the current weights have acted.

An example is one frame. Frames of one episode are correlated, also those of a segment in one batch,
as in McCandlish et al. 2018, whose noise scales of games count frames, too. The 8 micro-batches of
a measured step come from different environments, so that the groups that are compared share no
episode: B_simple holds what the correlation within a segment adds to the noise of a batch.
"""

from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.atlas.actor_critic import ActorCritic
from benchmarks.atlas.rollouts import CARTPOLE, Rollouts
from benchmarks.atlas.task import EARLY, LATE, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal, Search

WIDTH = 64
RETURNS = {EARLY: 60.0, LATE: 195.0}


class TwoNetworks(ActorCritic):
    """A network for the policy and another one for the critic."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)
        self.policy = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))
        self.critic = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the actions (B, 2), and values (B,)."""
        return self.policy(observations), self.critic(observations)[..., 0]


def make_module(parameters: dict[str, float]) -> TwoNetworks:
    """There is nothing to choose but the rate."""
    return TwoNetworks(**parameters)


def make_data(global_size: int, seed: int) -> DataLoader[Any]:
    """``seed`` draws first observations and actions; a batch of ``global_size`` frames."""
    return Rollouts(CARTPOLE, global_size, seed).loader()


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
        sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.025, b=1000, alpha=0.5, spread=3)
        },
        budget=Budget(examples=600_000, steps=3_000),
        search=Search(trials=8, seeds=12),
        geometries=("optimizer",),
        unit="frames",
    ),
)
