"""What a set-up is made of, and pieces that several of them use."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from lightning_noise import Examples
from testing.gans import Gan
from testing.toys import Regression
from testing.worlds.ddp_worlds import shard

FP64, FP32, FP16, BF16 = 1e-13, 1e-6, 4 * 2**-10, 4 * 2**-7  # what a squared norm may be off by


class Setup(NamedTuple):
    """One row.

    Args:
        name: of the row.
        told: how the user says it.
        module: makes the module; its ``loss`` is the mean over a batch.
        options: makes arguments of the trainer, and ``loader``.
        noise: makes arguments of ``GradientNoiseScale``.
        bound: greatest relative error of a squared norm.
        plain: makes the module that the reference runs, where it is another.
        ranks: processes.
        callbacks: makes others.
        passed_over: steps that are known not to be measured, at the beginning.
        sketched: whether only the norm of the mean is to be within ``bound``.
    """

    name: str
    told: str
    module: Callable[[], L.LightningModule] = Regression
    options: Callable[[], Mapping[str, Any]] = dict
    noise: Callable[[], Mapping[str, Any]] = dict
    bound: float = FP32
    plain: Callable[[], L.LightningModule] | None = None
    ranks: int = 1
    callbacks: Callable[[], list[Callback]] = list
    passed_over: int = 0
    sketched: bool = False


class ByHand(NamedTuple):
    """Rows of a GAN that steps by itself, one for each of its optimizers.

    Args:
        module: makes it.
        groups: what ``testing.gans.by_hand`` compares, "examples" or "batches".
        noise: makes arguments of ``GradientNoiseScale``.
        bound: greatest relative error of a squared norm.
        precision: of the trainer. The reference trains by itself, in fp64.
    """

    name: str
    told: str
    module: Callable[[], Gan]
    groups: str
    noise: Callable[[], Mapping[str, Any]]
    bound: float
    precision: str = "32-true"


class Refused(NamedTuple):
    """A row that must be refused.

    Args:
        rule: its name in ``hosts/lightning/refusals.py``; "" where it is refused elsewhere.
        stand_in: makes a trainer and a module to ask the rule with, where no such run can be made
            here.
    """

    name: str
    rule: str = ""
    module: Callable[[], L.LightningModule] = Regression
    options: Callable[[], Mapping[str, Any]] = dict
    noise: Callable[[], Mapping[str, Any]] = dict
    ranks: int = 1
    stand_in: Callable[[], tuple[Any, Any]] | None = None


def exact() -> dict[str, Any]:
    return {"probe": Examples(exact=True)}


def accumulating(number: int, **arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"accumulate": number, **arguments}


def two_ranks(
    strategy: Any, sizes: Sequence[Sequence[int]] | None = None, **arguments: Any
) -> Callable[[], dict[str, Any]]:
    """``sizes[rank]`` lists the sizes of a rank's micro-batches; without them Lightning's own
    DistributedSampler.
    """

    def make() -> dict[str, Any]:
        given = {} if sizes is None else {"loader": shard(sizes), "use_distributed_sampler": False}
        made = strategy() if callable(strategy) else strategy
        return {"accumulate": 1, "strategy": made, "devices": 2, **given, **arguments}

    return make


def splitting(times: int) -> Callable[[], dict[str, Any]]:
    return lambda: {"split": times}


class Normalised(Regression):
    """BatchNorm in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(6))


class Penalised(Regression):
    """A weight penalty inside the loss."""

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) + 0.1 * self.net[0].weight.square().sum()
