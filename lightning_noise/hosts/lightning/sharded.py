"""Sharded strategies of Lightning: which there are, what they train, and what of them cannot be
measured.
"""

from collections.abc import Callable, Iterable
from functools import partial

import lightning as L
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)
from torch import nn
from torch.nn import Parameter

from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.probes.sharding import plainly_named

SHARDED = (*either(FSDPStrategy), *either(ModelParallelStrategy))
Named = Callable[[], Iterable[tuple[str, Parameter]]]


def outermost(trainer: L.Trainer, module: L.LightningModule) -> nn.Module:
    """The module with every sharded module in it: FSDP wraps the LightningModule, too."""
    if isinstance(trainer.strategy, either(FSDPStrategy)) and trainer.strategy.model is not None:
        return trainer.strategy.model
    return module


def named_parameters(trainer: L.Trainer, module: L.LightningModule) -> Named:
    """Gives the parameters as the optimizers have them, by the names that they have without
    FSDP.
    """
    if not isinstance(trainer.strategy, SHARDED):
        return module.named_parameters
    return partial(plainly_named, module)


def is_deepspeed(trainer: L.Trainer) -> bool:
    """Whether DeepSpeed trains."""
    return isinstance(trainer.strategy, either(DeepSpeedStrategy))


def tensor_parallel_size(trainer: L.Trainer) -> int:
    """Ranks that hold parts of the same replica and see the same batches."""
    strategy = trainer.strategy
    if not isinstance(strategy, either(ModelParallelStrategy)):
        return 1
    mesh = strategy.device_mesh
    sizes = dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=False))
    return sizes.get("tensor_parallel", 1)


def is_offloaded(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether sharded parameters live on the CPU of a run on another device."""
    if not isinstance(trainer.strategy, SHARDED) or trainer.strategy.root_device.type == "cpu":
        return False
    return any(p.device.type == "cpu" for p in module.parameters())
