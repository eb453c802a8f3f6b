"""Measured critical batch sizes beside cheap statistics of the gradients of one run."""
