"""lightning-noise: how large a batch is worth it? The gradient noise scale for PyTorch Lightning, with an honest interval."""

from typing import TYPE_CHECKING, Any

from lightning_noise import tradeoff
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.policy import BatchSizePolicy, Decision, ExchangeRate, TrackNoiseScale
from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.core.estimate import NoiseEstimate, estimate_noise_scale
from lightning_noise.core.moments import Key, Moments
from lightning_noise.hosts.frozen import NoiseScales, measure_noise_scale
from lightning_noise.hosts.lightning.callback import GradientNoiseScale
from lightning_noise.hosts.lightning.schedules import ByExamples
from lightning_noise.hosts.lightning.strategies import NoiseDDPStrategy, NoiseStrategyMixin
from lightning_noise.hosts.loop import Monitor
from lightning_noise.hosts.torchmetrics import NoiseScaleMetric
from lightning_noise.probes.examples import Examples, register_rule
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Probe
from lightning_noise.probes.ranks import BucketTap, Ranks

if TYPE_CHECKING:
    from lightning_noise.study import BatchSizeStudy as BatchSizeStudy

__version__ = "0.1.0"

__all__ = [
    "AdaptiveBatchSize",
    "BatchSizePolicy",
    "BucketTap",
    "ByExamples",
    "CriticalBatchSize",
    "Decision",
    "Examples",
    "ExchangeRate",
    "GradientNoiseScale",
    "Key",
    "MicroBatches",
    "Moments",
    "Monitor",
    "NoiseDDPStrategy",
    "NoiseEstimate",
    "NoiseScaleMetric",
    "NoiseScales",
    "NoiseStrategyMixin",
    "Probe",
    "Ranks",
    "TrackNoiseScale",
    "estimate_noise_scale",
    "measure_noise_scale",
    "register_rule",
    "tradeoff",
]


def __getattr__(name: str) -> Any:
    """``BatchSizeStudy`` on first use: it needs Optuna, which nothing else here does."""
    if name == "BatchSizeStudy":
        from lightning_noise.study import BatchSizeStudy

        return BatchSizeStudy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
