"""The names of the strategies in Lightning's registry.

A name is known as soon as Lightning is loaded, and costs no import: what it stands for is imported
when a Trainer asks for it.
"""

import importlib
from typing import Any

_STRATEGIES = "lightning_noise.hosts.lightning.strategies"
_SHARDED = "lightning_noise.hosts.lightning.sharded_strategies"
# The class behind each name, by the package whose registry it is in.
_DDP = {"lightning.pytorch": "NoiseDDPStrategy", "pytorch_lightning": "TwinNoiseDDPStrategy"}
_FSDP = {"lightning.pytorch": "NoiseFSDPStrategy", "pytorch_lightning": "TwinNoiseFSDPStrategy"}
_MODEL_PARALLEL = {
    "lightning.pytorch": "NoiseModelParallelStrategy",
    "pytorch_lightning": "TwinNoiseModelParallelStrategy",
}


class Later:
    """Stands in the registry for a class that is not imported yet."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, **arguments: Any) -> Any:
        """The strategy that a Trainer asks for."""
        kind = getattr(importlib.import_module(self._module), self._name)
        return kind(**arguments)


class Renaming:
    """A strategy registry that registers "ddp…" as "ddp_noise…"."""

    def __init__(self, registry: Any, strategy: Any = None) -> None:
        self._registry = registry
        self._strategy = strategy

    def register(self, name: str, strategy: Any, description: str, **arguments: Any) -> None:
        """Registers a variant of DDP, for the strategy that is given to the constructor if any."""
        name = name.replace("ddp", "ddp_noise", 1)
        text = f"{description}, showing per-rank gradients"
        enter(self._registry, name, self._strategy or strategy, text, **arguments)


def enter(registry: Any, name: str, strategy: Any, description: str, **arguments: Any) -> None:
    """Registers a strategy, unless its name stands for a class already; once, however often it is
    called.
    """
    if name in registry and not isinstance(registry[name]["strategy"], Later):
        return
    registry.register(name, strategy, description=description, override=True, **arguments)


def enter_sharded(registry: Any, fsdp: Any, model_parallel: Any) -> None:
    """Registers the sharded strategies."""
    enter(registry, "fsdp_noise", fsdp, "FSDP, on CPU too")
    text = "FSDP2 over all ranks, as configure_model shards the module"
    enter(registry, "model_parallel_noise", model_parallel, text)


def enter_names(package: str) -> None:
    """Registers all names in the registry of a package that is loaded."""
    strategies = importlib.import_module(f"{package}.strategies")
    registry = strategies.StrategyRegistry
    ddp = Later(_STRATEGIES, _DDP[package])
    strategies.DDPStrategy.register_strategies(Renaming(registry, ddp))
    fsdp = Later(_SHARDED, _FSDP[package])
    model_parallel = Later(_SHARDED, _MODEL_PARALLEL[package])
    enter_sharded(registry, fsdp, model_parallel)
