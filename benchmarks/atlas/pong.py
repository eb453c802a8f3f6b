"""Pong with advantage actor-critic, and one run of it whose noise scale is measured along the way.

The frames are those of Mnih et al. 2013: 84 × 84 grey levels, the latest four of every fourth frame
of the emulator.
"""

import importlib.util
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from benchmarks.atlas.actor_critic import ActorCritic
from benchmarks.atlas.noise_run import MICRO_BATCHES, Recorder
from benchmarks.atlas.rollouts import Game, Rollouts
from benchmarks.harness.lightning_runs import SILENT, quiet_lightning
from lightning_noise import GradientNoiseScale, Moments

SIDE, STACKED = 84, 4
ACTIONS = 6
NEEDED = "ale_py"


def make_pongs(number: int) -> Any:
    """Pong, ``number`` times in arrays, in one thread."""
    from ale_py import AtariVectorEnv

    return AtariVectorEnv(
        game="pong",
        num_envs=number,
        img_height=SIDE,
        img_width=SIDE,
        stack_num=STACKED,
        num_threads=1,
    )


PONG = Game(make=make_pongs, segment=16, discount=0.99, seeds=2**30)


def missing() -> str:
    """What Pong needs and is not installed."""
    if importlib.util.find_spec(NEEDED) is not None:
        return ""
    return "Pong comes with ale-py. Run pip install -e '.[atlas]' in the repository."


class Convolutions(ActorCritic):
    """The network of Mnih et al. 2016 without its LSTM: policy and critic share all but the end."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)
        self.body = nn.Sequential(
            nn.Conv2d(STACKED, 16, 8, stride=4),  # (B, 16, 20, 20)
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2),  # (B, 32, 9, 9)
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 9 * 9, 256),
            nn.ReLU(),
        )
        self.policy = nn.Linear(256, ACTIONS)
        self.critic = nn.Linear(256, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the actions (B, 6), and values (B,)."""
        seen = self.body(observations / 255)
        return self.policy(seen), self.critic(seen)[..., 0]


class Played(NamedTuple):
    """What a run gives, by optimizer step.

    Args:
        losses: of training.
        moments: by the number of the step, from 0.
        scores: mean score of the latest 100 games that have ended; None before the first one.
    """

    losses: list[float]
    moments: dict[int, Moments]
    scores: list[float | None]


class Scores(L.Callback):
    """Keeps the mean score after every step."""

    def __init__(self) -> None:
        self.found: list[float | None] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: ActorCritic, outputs: Any, *_: Any
    ) -> None:
        if trainer.global_step == len(self.found):
            return  # in the middle of an accumulation
        score = None
        if pl_module.rollouts.episodes:
            score = pl_module.rollouts.mean_return
        self.found.append(score)


def play(global_size: int, learning_rate: float, steps: int, seed: int) -> Played:
    """Trains from the first frame on; micro-batches come from different environments."""
    noise = GradientNoiseScale("micro_batches", verbose=False, figures=False)
    recorder, scores = Recorder(noise), Scores()
    with quiet_lightning(), torch.random.fork_rng():
        L.seed_everything(seed, verbose=False)
        data = Rollouts(PONG, global_size // MICRO_BATCHES, seed).loader()
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            max_epochs=-1,
            max_steps=steps,
            accumulate_grad_batches=MICRO_BATCHES,
            callbacks=[noise, recorder, scores],
            **SILENT,
        )
        trainer.fit(Convolutions(learning_rate), data)
    found = recorder.found
    return Played(found.losses, found.moments["euclidean"], scores.found)
