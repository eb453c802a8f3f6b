"""Modules that are sharded by FSDP2 or FSDP, and strategies that run FSDP on CPU."""

import os

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from lightning_noise import NoiseFSDPStrategy
from testing.toys import Regression


def mesh_of(replicas):
    """All ranks in one row, or in rows of shards for HSDP."""
    ranks = torch.distributed.get_world_size()
    if replicas == 1:
        return init_device_mesh("cpu", (ranks,))
    shape = replicas, ranks // replicas
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))


class Block(nn.Sequential):
    """What an FSDP policy wraps."""


class Net(Regression):
    """Rows that neither 2 nor 4 ranks can share evenly, and a layer of one row, of which most ranks
    hold nothing.
    """

    def __init__(self, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)):
        super().__init__(optimizer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            block = Block(nn.Linear(7, 5), nn.Tanh())
            self.net = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), block, nn.Linear(5, 1))

    def configure_optimizers(self):
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


class Net2(Net):
    """Sharded by FSDP2, the block as a unit of its own; ``shard`` are arguments of ``fully_shard``,
    ``replicas`` is that of HSDP.
    """

    def __init__(self, *arguments, replicas=1, **shard):
        super().__init__(*arguments)
        self.replicas, self.shard = replicas, shard

    def configure_model(self):
        self.shard_over(mesh_of(self.replicas))

    def shard_over(self, mesh):
        fully_shard(self.net[2], mesh=mesh, **self.shard)
        fully_shard(self.net, mesh=mesh, **self.shard)


class Frozen(Net):
    """The first layer is not trained."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.net[0].requires_grad_(False)


class Frozen2(Frozen, Net2):
    """The same under FSDP2."""


class Tied(Net):
    """The last layer's weight is used a second time."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net.append(nn.Linear(1, 5))
            self.net.append(nn.Linear(5, 1))
        self.net[5].weight = self.net[3].weight


class Tied2(Tied, Net2):
    """The same under FSDP2."""


class Unused(Net):
    """A part of a unit that no forward pass uses."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.net[2].never = nn.Linear(3, 3)
        self.net[2].forward = self.net[2][0].forward


class Unused2(Unused, Net2):
    """The same under FSDP2."""


class Lora(Net):
    """A frozen layer with a trained correction of low rank beside it, in one unit."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.net[2][0] = LowRank(self.net[2][0], rank=2)


class LowRank(nn.Module):
    def __init__(self, frozen, rank):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


class Lora2(Lora, Net2):
    """The same under FSDP2."""


class Again(nn.Module):
    """Calls its part twice."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(self.part(x))


class Twice(Net):
    """A unit is called twice in one forward pass."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            block = Block(nn.Linear(5, 5), nn.Tanh())
        self.net[2] = nn.Sequential(self.net[2][0], Again(block))


class Twice2(Twice, Net2):
    """The same under FSDP2."""

    def shard_over(self, mesh):
        fully_shard(self.net[2][1].part, mesh=mesh, **self.shard)
        fully_shard(self.net, mesh=mesh, **self.shard)


class TwoPaths(Twice):
    """FSDP wraps the unit at one of its two places, and leaves the other as it is."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        block = self.net[2][1].part
        self.net[2] = nn.Sequential(self.net[2][0], block, block)


class Checkpointed(Net):
    """The block's activations are computed again in the backward pass."""

    reentrant = False

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.net[2] = Recomputed(self.net[2], self.reentrant)


class Recomputed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Checkpointed2(Checkpointed, Net2):
    """The same under FSDP2: the recomputed module is the unit."""

    def shard_over(self, mesh):
        fully_shard(self.net[2].inner, mesh=mesh, **self.shard)
        fully_shard(self.net, mesh=mesh, **self.shard)


class Reentrant2(Checkpointed2):
    """The same, in a backward pass inside the backward pass."""

    reentrant = True


def fsdp(sharding="FULL_SHARD", **arguments):
    """FSDP with the block as a unit of its own; Lightning's own strategy does not run on CPU."""
    return NoiseFSDPStrategy(sharding_strategy=sharding, auto_wrap_policy={Block}, **arguments)


def fsdp2(base=ModelParallelStrategy, tensor_parallel_size=1, **arguments):
    """Lightning's strategy for FSDP2."""
    ranks = int(os.environ["WORLD_SIZE"]) // tensor_parallel_size
    return base(ranks, tensor_parallel_size, **arguments)
