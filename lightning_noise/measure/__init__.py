"""Floor 3: the engine that any training loop can drive. Torch, still no Lightning."""

from lightning_noise.measure.monitor import Monitor

__all__ = ["Monitor"]
