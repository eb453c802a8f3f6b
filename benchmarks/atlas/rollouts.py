"""Frames of environments that a policy acts in, as batches for a ``DataLoader``."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

EPISODES = 100  # of the mean return
EPOCH_FRAMES = 2**22  # more than a run takes

# Observations (N, features) to logits of actions (N, actions) and values (N,).
Policy = Callable[[Tensor], tuple[Tensor, Tensor]]


class Game(NamedTuple):
    """What is played.

    Args:
        make: from a number to so many environments in arrays. The frame after the end of an episode
            is spent on the restart.
        segment: frames in a row of one environment, in one batch.
        discount: of returns.
        reward: that a reward of 1 counts as.
        seeds: of its environments are below.
    """

    make: Callable[[int], Any]
    segment: int
    discount: float
    reward: float = 1.0
    seeds: int = 2**32


class Frames(NamedTuple):
    """A batch: B frames, those of one environment in a row.

    Args:
        observations: (B, …).
        actions: (B,), which were drawn from the policy.
        returns: (B,), see :func:`segment_returns`.
        alive: (B,), 0 in the frame that an environment spends on its restart, otherwise 1.
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    alive: Tensor


def segment_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, truncated: Tensor, discount: float
) -> Tensor:
    """Discounted returns (T, N) up to the end of a segment or of an episode.

    What comes after the segment, or after an episode that was cut off, has the value of the
    policy's critic. Nothing comes after an episode that has terminated.

    Args:
        rewards: (T, N) of T frames of N environments.
        values: (T + 1, N) of the observations before each frame, and of those after the last one.
        terminated, truncated: (T, N), whether an episode ended with the frame.
        discount: of a frame.
    """
    after = values[-1]
    found = torch.empty_like(rewards)
    for frame in reversed(range(len(rewards))):
        after = torch.where(truncated[frame], values[frame + 1], after)
        after = torch.where(terminated[frame], 0.0, after)
        after = rewards[frame] + discount * after
        found[frame] = after
    return found


def make_cartpoles(number: int) -> Any:
    """CartPole, ``number`` times in arrays.

    Raises:
        ModuleNotFoundError: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as missing:
        fix = "Run pip install -e '.[atlas]' in the repository"
        message = f"{fix}: CartPole comes with gymnasium, which is missing."
        raise ModuleNotFoundError(message) from missing
    return gymnasium.make_vec(
        "CartPole-v1", num_envs=number, vectorization_mode="vector_entry_point"
    )


# A frame is rewarded by 1 - discount, so that returns lie between 0 and 1.
CARTPOLE = Game(make=make_cartpoles, segment=16, discount=0.98, reward=1 - 0.98)


class Rollout:
    """Some environments, and where they are.

    Args:
        game: that they play.
        number: of environments.
        length: frames of each in a segment.
        seed: of the first observations and of the actions.
    """

    def __init__(self, game: Game, number: int, length: int, seed: int) -> None:
        self._game = game
        self._length = length
        self._environments = game.make(number)
        self._generator = torch.Generator().manual_seed(seed)
        observations, _ = self._environments.reset(seed=seed % game.seeds)
        self._observations = torch.from_numpy(observations)
        self._scores = np.zeros(number)
        self._restarts = np.zeros(number, dtype=bool)  # in the next frame

    @torch.no_grad()
    def segment(self, policy: Policy, finished: deque[float]) -> Frames:
        """The next frames of every environment; appends returns of episodes to ``finished``."""
        seen, acted, values, rewards, alive = [], [], [], [], []
        ends: dict[str, list[Tensor]] = {"terminated": [], "truncated": []}
        for _ in range(self._length):
            logits, value = policy(self._observations)
            actions = torch.multinomial(logits.softmax(-1), 1, generator=self._generator)[:, 0]
            seen.append(self._observations)
            acted.append(actions)
            values.append(value)
            alive.append(torch.from_numpy(~self._restarts))
            after, reward, terminated, truncated, _ = self._environments.step(actions.numpy())
            self._observations = torch.from_numpy(after)
            rewards.append(torch.from_numpy(reward).float() * self._game.reward)
            ends["terminated"].append(torch.from_numpy(terminated))
            ends["truncated"].append(torch.from_numpy(truncated))
            self._count(reward, terminated | truncated, finished)
        values.append(policy(self._observations)[1])
        returns = segment_returns(
            torch.stack(rewards),
            torch.stack(values),
            torch.stack(ends["terminated"]),
            torch.stack(ends["truncated"]),
            self._game.discount,
        )
        columns = (torch.stack(seen), torch.stack(acted), returns, torch.stack(alive).float())
        return Frames(*(column.transpose(0, 1).flatten(0, 1) for column in columns))

    def _count(self, reward: Any, ended: Any, finished: deque[float]) -> None:
        self._scores += reward
        finished.extend(self._scores[ended].tolist())
        self._scores[ended] = 0
        self._restarts = ended


class Rollouts(Dataset[Frames]):
    """Batches of frames in which the current policy has acted, to be asked for in their order.

    A batch is one segment of B / segment environments, which go on in the next batch. Actions are
    drawn evenly until :meth:`follow` names a policy.

    Args:
        game: that is played.
        size: frames of a batch.
        seed: of environments and actions.

    Raises:
        ValueError: ``size`` is neither below a segment of the game nor a multiple of it.
    """

    def __init__(self, game: Game, size: int, seed: int) -> None:
        if size > game.segment and size % game.segment:
            rule = f"must be at most {game.segment} or a multiple of it"
            raise ValueError(f"size {rule}, got {size}.")
        self._game = game
        self._size = size
        self._seed = seed
        self._policy: Policy = evenly
        self._groups: list[Rollout] = []
        self._finished: deque[float] = deque(maxlen=EPISODES)
        self._make_groups(1)

    def follow(self, policy: Policy, parts: int) -> None:
        """Lets ``policy`` act from the first frame on.

        Args:
            policy: whose weights may change between batches.
            parts: batches of an optimizer step. Each has environments of its own, so that together
                they are a batch of so many times the size.
        """
        self._policy = policy
        self._finished.clear()
        self._make_groups(parts)

    def _make_groups(self, number: int) -> None:
        length = min(self._game.segment, self._size)
        seeds = np.random.SeedSequence(self._seed).generate_state(number).tolist()
        environments = self._size // length
        self._groups = [Rollout(self._game, environments, length, seed) for seed in seeds]

    @property
    def episodes(self) -> int:
        """How many of the latest EPISODES have ended."""
        return len(self._finished)

    @property
    def mean_return(self) -> float:
        """Of the latest EPISODES episodes that have ended; 0 before the first one."""
        if not self._finished:
            return 0.0
        return sum(self._finished) / len(self._finished)

    def __len__(self) -> int:
        return EPOCH_FRAMES // self._size

    def __getitem__(self, number: int) -> Frames:
        group = self._groups[number % len(self._groups)]
        return group.segment(self._policy, self._finished)

    def loader(self) -> DataLoader[Frames]:
        """Batches one after the other.

        Lightning knows their number, so it fetches none ahead: a batch that is fetched ahead is
        made with old weights.
        """
        return DataLoader(self, sampler=range(len(self)), batch_size=None)


def evenly(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Two actions, each with the same logit, and values of 0."""
    return observations.new_zeros(len(observations), 2), observations.new_zeros(len(observations))
