"""Who drives a measurement: Lightning, torchmetrics, a plain loop."""
