"""Floor 4: Lightning and torchmetrics. The only place that says ``trainer``."""
