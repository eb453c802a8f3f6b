"""lightning-noise: how large a batch size pays off?

The gradient noise scale for PyTorch Lightning, with its confidence interval.
"""

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_noise.when_imported import when_imported

if TYPE_CHECKING:
    from lightning_noise import tradeoff as tradeoff
    from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize as AdaptiveBatchSize
    from lightning_noise.adapt.least_time import LeastTime as LeastTime
    from lightning_noise.adapt.policy import BatchSizePolicy as BatchSizePolicy
    from lightning_noise.adapt.policy import Decision as Decision
    from lightning_noise.adapt.policy import ExchangeRate as ExchangeRate
    from lightning_noise.adapt.policy import TrackNoiseScale as TrackNoiseScale
    from lightning_noise.adapt.schedule_policies import BatchSizeRamp as BatchSizeRamp
    from lightning_noise.adapt.schedule_policies import BatchSizeWarmUp as BatchSizeWarmUp
    from lightning_noise.core.critical import CriticalBatchSize as CriticalBatchSize
    from lightning_noise.core.errors import NoiseScaleError as NoiseScaleError
    from lightning_noise.core.estimate import NoiseEstimate as NoiseEstimate
    from lightning_noise.core.estimate import estimate_noise_scale as estimate_noise_scale
    from lightning_noise.core.moments import Key as Key
    from lightning_noise.core.moments import Moments as Moments
    from lightning_noise.hosts.frozen import NoiseScales as NoiseScales
    from lightning_noise.hosts.frozen import measure_noise_scale as measure_noise_scale
    from lightning_noise.hosts.lightning.callback import GradientNoiseScale as GradientNoiseScale
    from lightning_noise.hosts.lightning.schedules import ByExamples as ByExamples
    from lightning_noise.hosts.lightning.sharded_strategies import (
        NoiseFSDPStrategy as NoiseFSDPStrategy,
    )
    from lightning_noise.hosts.lightning.sharded_strategies import (
        NoiseFSDPStrategyMixin as NoiseFSDPStrategyMixin,
    )
    from lightning_noise.hosts.lightning.sharded_strategies import (
        NoiseModelParallelStrategy as NoiseModelParallelStrategy,
    )
    from lightning_noise.hosts.lightning.sharded_strategies import (
        NoiseModelParallelStrategyMixin as NoiseModelParallelStrategyMixin,
    )
    from lightning_noise.hosts.lightning.strategies import NoiseDDPStrategy as NoiseDDPStrategy
    from lightning_noise.hosts.lightning.strategies import NoiseStrategyMixin as NoiseStrategyMixin
    from lightning_noise.hosts.loop import Monitor as Monitor
    from lightning_noise.hosts.torchmetrics import NoiseScaleMetric as NoiseScaleMetric
    from lightning_noise.probes.examples import Examples as Examples
    from lightning_noise.probes.examples import register_rule as register_rule
    from lightning_noise.probes.micro_batches import MicroBatches as MicroBatches
    from lightning_noise.probes.probe import Probe as Probe
    from lightning_noise.probes.ranks import Ranks as Ranks
    from lightning_noise.study import BatchSizeStudy as BatchSizeStudy
    from lightning_noise.study import branched_check as branched_check

__version__ = "0.1.0"

# The public names of each module. They are imported on first use, so that a name costs no more than
# the imports of its own module.
_OF_STUDY = ("BatchSizeStudy", "branched_check")
_HOMES = {
    "adapt.adaptive_settings": ("AdaptiveBatchSize",),
    "adapt.least_time": ("LeastTime",),
    "adapt.policy": ("BatchSizePolicy", "Decision", "ExchangeRate", "TrackNoiseScale"),
    "adapt.schedule_policies": ("BatchSizeRamp", "BatchSizeWarmUp"),
    "core.critical": ("CriticalBatchSize",),
    "core.errors": ("NoiseScaleError",),
    "core.estimate": ("NoiseEstimate", "estimate_noise_scale"),
    "core.moments": ("Key", "Moments"),
    "hosts.frozen": ("NoiseScales", "measure_noise_scale"),
    "hosts.lightning.callback": ("GradientNoiseScale",),
    "hosts.lightning.schedules": ("ByExamples",),
    "hosts.lightning.sharded_strategies": (
        "NoiseFSDPStrategy",
        "NoiseFSDPStrategyMixin",
        "NoiseModelParallelStrategy",
        "NoiseModelParallelStrategyMixin",
    ),
    "hosts.lightning.strategies": ("NoiseDDPStrategy", "NoiseStrategyMixin"),
    "hosts.loop": ("Monitor",),
    "hosts.torchmetrics": ("NoiseScaleMetric",),
    "probes.examples": ("Examples", "register_rule"),
    "probes.micro_batches": ("MicroBatches",),
    "probes.probe": ("Probe",),
    "probes.ranks": ("Ranks",),
    "study": _OF_STUDY,  # needs Optuna, and nothing else here does
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # all but the study, which is an optional extra
    *sorted({"tradeoff", *_HOME_OF} - {*_OF_STUDY}),
]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name == "tradeoff":
        return importlib.import_module("lightning_noise.tradeoff")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"lightning_noise.{_HOME_OF[name]}")
    found = getattr(home, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _enter_names(package: str) -> None:
    from lightning_noise.hosts.lightning.strategy_names import enter_names

    enter_names(package)


# So that Trainer(strategy="ddp_noise") works in whatever order the packages are imported.
for _package in ("lightning.pytorch", "pytorch_lightning"):
    when_imported(_package, partial(_enter_names, _package))
