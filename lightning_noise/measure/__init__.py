"""Floor 3: the measurement that any training loop can drive. Torch, still no Lightning."""
