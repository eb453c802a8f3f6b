"""What a user of a sharded strategy brings along: a strategy, a loss scale, Fabric's own FSDP."""

import warnings

import torch
from lightning.fabric.strategies import FSDPStrategy as FabricFSDPStrategy
from lightning.pytorch.plugins.precision import FSDPPrecision, MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from lightning_noise import NoiseFSDPStrategyMixin, NoiseModelParallelStrategyMixin
from lightning_noise.probes.shards import Shards
from testing.sharded_unusual import Summing


class Sending(FSDPStrategy):
    """A user's strategy, with a communication hook that counts its calls."""

    calls = 0

    def _setup_model(self, model):
        wrapped = super()._setup_model(model)
        wrapped.register_comm_hook(None, self.send)
        return wrapped

    def send(self, state, gradient, piece):
        self.calls += 1
        mean = gradient / torch.distributed.get_world_size()
        torch.distributed.reduce_scatter_single(piece, mean)


class NoiseSending(NoiseFSDPStrategyMixin, Sending):
    """The same with the mixin."""


class Reducing(ModelParallelStrategy):
    """A user's strategy with an argument of its own, and a reduce-scatter of its own."""

    def __init__(self, summing, **settings):
        super().__init__(**settings)
        self.summing = summing

    def setup(self, trainer):
        super().setup(trainer)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_reduce_scatter(self.summing)


class NoiseReducing(NoiseModelParallelStrategyMixin, Reducing):
    """The same with the mixin."""

    def __init__(self):
        super().__init__(summing=Summing())


class FabricFSDP(FabricFSDPStrategy):
    """Fabric's FSDP asks for a GPU."""

    def setup_module(self, module):
        wrapped = FullyShardedDataParallel(
            module,
            sharding_strategy=self.sharding_strategy,
            device_id=torch.device("cpu"),
            **self._fsdp_kwargs,
        )
        del self._fsdp_kwargs["auto_wrap_policy"]  # super() does all but the wrapping
        return super().setup_module(wrapped)


class Deaf(Shards):
    """Hears nothing of one parameter."""

    def _hook(self, name):
        if name == "net.2.0.weight":
            return lambda gradient: None
        return super()._hook(name)


def fsdp_scaled(init_scale, precision="32-true"):
    """A loss scale under FSDP; Lightning makes its own scaler for CUDA, and takes no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no CUDA
        plugin = FSDPPrecision(precision)
    plugin.scaler = ShardedGradScaler("cpu", init_scale=init_scale, process_group=None)
    return [plugin]


def fsdp2_scaled(init_scale):
    """A loss scale under FSDP2, with autocast in fp16."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    return [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
