"""Sharded strategies by name, and as mixins.

The callback measures with Lightning's own ``FSDPStrategy`` and ``ModelParallelStrategy`` as they
are. These are for what the own ones do not do: ``ModelParallelStrategy`` has no name and is tensor
parallel unless told otherwise, and ``FSDPStrategy`` runs on CUDA only.
"""

from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from lightning_noise.hosts.lightning.strategy_names import enter_sharded
from lightning_noise.hosts.lightning.two_packages import INSTALLED

if TYPE_CHECKING:
    _FSDPBase = FSDPStrategy
    _ModelParallelBase = ModelParallelStrategy
else:
    _FSDPBase = _ModelParallelBase = object


NOT_FULL = (
    "On CPU, torch's FSDP cannot assemble a full state dict (the process dies of a segmentation "
    "fault): checkpoints are folders of shards, as with state_dict_type='sharded'."
)


class NoiseModelParallelStrategyMixin(_ModelParallelBase):
    """Makes a strategy derived from Lightning's ``ModelParallelStrategy`` data parallel over all
    ranks unless told otherwise, so that every rank has examples of its own to compare.

    ``class Mine(NoiseModelParallelStrategyMixin, MyStrategy): ...`` with the mixin first.

    Args:
        data_parallel_size: ranks that train on different examples; "auto" takes all ranks, divided
            by ``tensor_parallel_size``.
        tensor_parallel_size: ranks that hold parts of one replica. ``GradientNoiseScale`` refuses
            more than 1.
        settings: of the strategy.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: int = 1,
        **settings: Any,
    ) -> None:
        # by keyword: a derived strategy may take arguments of its own before them
        super().__init__(
            data_parallel_size=data_parallel_size,
            tensor_parallel_size=tensor_parallel_size,
            **settings,
        )
        self._all_data_parallel = data_parallel_size == "auto"
        self._tensor_parallel = tensor_parallel_size

    def setup_environment(self) -> None:
        """Takes all ranks for data parallelism; Lightning's "auto" takes one per node."""
        if self._all_data_parallel:
            ranks = self.num_nodes * self.num_processes
            self._data_parallel_size = ranks // self._tensor_parallel  # read in the base's method
        super().setup_environment()


class NoiseFSDPStrategyMixin(_FSDPBase):
    """Lets a strategy derived from Lightning's ``FSDPStrategy`` run on CPU, so that a sharded
    script, and what it measures, can be tried without a GPU. Checkpoints are sharded there. On CUDA
    it changes nothing.

    ``class Mine(NoiseFSDPStrategyMixin, MyFSDPStrategy): ...`` with the mixin first.
    """

    def setup_environment(self) -> None:
        """Makes a mesh of the device in use; Lightning's is always one of CUDA."""
        shape = self.kwargs.get("device_mesh")
        if self.root_device.type != "cpu" or not isinstance(shape, tuple):
            super().setup_environment()
            return
        del self.kwargs["device_mesh"]
        super().setup_environment()
        names = ("replicate", "shard")
        self.kwargs["device_mesh"] = init_device_mesh("cpu", shape, mesh_dim_names=names)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        """Wraps the model for the CPU: Lightning names no device there, and FSDP then asks for a
        GPU.
        """
        from torch.distributed.fsdp import FullyShardedDataParallel

        wrapped = any(isinstance(part, FullyShardedDataParallel) for part in model.modules())
        if wrapped or self.root_device.type != "cpu":
            return super()._setup_model(model)
        if self._state_dict_type == "full":
            rank_zero_warn(NOT_FULL)
            self._state_dict_type = "sharded"
        kwargs = self.kwargs
        model = FullyShardedDataParallel(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **kwargs,
        )
        self.kwargs = {name: kwargs[name] for name in kwargs.keys() - {"auto_wrap_policy"}}
        try:  # the base does all but the wrapping, which is done
            return super()._setup_model(model)
        finally:
            self.kwargs = kwargs


class NoiseFSDPStrategy(NoiseFSDPStrategyMixin, FSDPStrategy):
    """Lightning's FSDPStrategy, which also runs on CPU; "fsdp_noise" by name."""


class NoiseModelParallelStrategy(NoiseModelParallelStrategyMixin, ModelParallelStrategy):
    """Lightning's ModelParallelStrategy for FSDP2, data parallel over all ranks;
    "model_parallel_noise" by name.

    The module shards itself in ``configure_model``, as with Lightning's own.
    """


enter_sharded(StrategyRegistry, NoiseFSDPStrategy, NoiseModelParallelStrategy)

if INSTALLED:
    from pytorch_lightning import strategies as twin

    # mypy takes the twins' bases for unrelated classes
    class TwinNoiseFSDPStrategy(  # type: ignore[misc]
        NoiseFSDPStrategyMixin, twin.FSDPStrategy
    ):
        """What "fsdp_noise" is in ``pytorch_lightning``."""

    class TwinNoiseModelParallelStrategy(  # type: ignore[misc]
        NoiseModelParallelStrategyMixin, twin.ModelParallelStrategy
    ):
        """What "model_parallel_noise" is in ``pytorch_lightning``."""

    enter_sharded(twin.StrategyRegistry, TwinNoiseFSDPStrategy, TwinNoiseModelParallelStrategy)
