"""Sharded modules that communicate, compute or are built in ways of their own, and some that
cannot be measured.
"""

import lightning as L
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter  # no public name
from torch.distributed.tensor import Shard

from testing.sharded import Block, Net, Net2


class Encoder(Block):
    """Has a method beside ``forward``."""

    def encode(self, x):
        return self.forward(x)


class Encoding(nn.Module):
    """Calls that method."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return self.encoder.encode(x)


class ByMethod2(Net2):
    """The block is used by a method that FSDP2 knows of, and that runs no forward pre-hook."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.net[2] = Encoding(Encoder(*self.net[2]))

    def shard_over(self, mesh):
        fully_shard(self.net[2].encoder, mesh=mesh)
        register_fsdp_forward_method(self.net[2].encoder, "encode")
        fully_shard(self.net, mesh=mesh)


class Outside2(Net2):
    """A trained parameter that no unit holds."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.gain = nn.Parameter(torch.ones(()))

    def loss(self, batch):
        return super().loss(batch) * self.gain


class Ignored2(Net2):
    """A unit leaves one of its parameters whole."""

    def shard_over(self, mesh):
        fully_shard(self.net, mesh=mesh, ignored_params={self.net[0].bias})


class Divided2(Net2):
    """The ranks' gradients are summed and not averaged."""

    def shard_over(self, mesh):
        super().shard_over(mesh)
        self.net.set_gradient_divide_factor(1.0)


class Halves2(Net2):
    """Two halves of the ranks, whose gradients are never averaged with each other's."""

    def shard_over(self, mesh):
        halves = init_device_mesh("cpu", (2, mesh.size() // 2), mesh_dim_names=("half", "shard"))
        super().shard_over(halves["shard"])


class Meta2(Net2):
    """Built on the meta device, and filled once it is sharded."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.values = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.net.to("meta")

    def configure_model(self):
        super().configure_model()
        self.net.to_empty(device="cpu")
        set_model_state_dict(self.net, self.values, options=StateDictOptions(full_state_dict=True))


class Summing(ReduceScatter):
    """A user's own communication, which counts what it does."""

    def __init__(self):
        self.calls = 0

    def allocate(self, size, *, dtype, device):
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor, input_tensor, group, op, async_op=False):
        self.calls += 1
        return torch.distributed.reduce_scatter_single(
            output_tensor, input_tensor, group=group, op=op, async_op=async_op
        )


class OwnCommunication2(Net2):
    """The user's reduce-scatter, of every unit."""

    def shard_over(self, mesh):
        super().shard_over(mesh)
        self.summing = Summing()
        self.net[2].set_custom_reduce_scatter(self.summing)
        self.net.set_custom_reduce_scatter(self.summing)


class ReducesLast2(Net2):
    """Communicates in the last micro-batch of a step alone."""

    def on_train_batch_start(self, batch, batch_idx):
        last = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        self.net.set_requires_gradient_sync(last)


class Manual2(Net2):
    """Steps by itself, once in two batches."""

    def __init__(self, *arguments, **shard):
        super().__init__(*arguments, **shard)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class Grouped2(Net2):
    """Two modules are one unit."""

    def shard_over(self, mesh):
        fully_shard([self.net[2], self.net[3]], mesh=mesh)
        fully_shard(self.net, mesh=mesh)


class Columns2(Net2):
    """Ranks hold columns of a matrix, and rows of the others."""

    def shard_over(self, mesh):
        wide = self.net[0].weight
        fully_shard(
            self.net, mesh=mesh, shard_placement_fn=lambda p: Shard(1) if p is wide else None
        )


class Slope(L.LightningModule):
    """A linear regression in ten dimensions without noise, off by a distance of 1: B_simple is 11.

    Sharded by FSDP2 where there is a mesh.
    """

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(10, 1, bias=False)
        nn.init.constant_(self.net.weight, 10**-0.5)

    def configure_model(self):
        if self.device_mesh is not None:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class CompiledUnit2(Net2):
    """A unit is compiled."""

    def shard_over(self, mesh):
        self.net[2] = torch.compile(self.net[2], backend="aot_eager")
        super().shard_over(mesh)


class CompiledAround2(Net2):
    """The units are compiled together."""

    def shard_over(self, mesh):
        super().shard_over(mesh)
        self.net = torch.compile(self.net, backend="aot_eager")


class Silent(Net):
    """Logs nothing: ``self.log`` cannot be compiled."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class FlatNet(Net):
    """Trains what FSDP has made of the parameters."""

    def configure_optimizers(self):
        return self.make_optimizer(self.trainer.model.parameters())
