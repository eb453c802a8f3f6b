"""The large-batch model under its public name; see :mod:`lightning_noise.core.tradeoff`."""

from lightning_noise.core.tradeoff import (
    FrontierPoint,
    dl_opt,
    eps_opt,
    examples_factor,
    exchange_rate_size,
    frontier,
    gain,
    gamma,
    steps_factor,
)

__all__ = [
    "FrontierPoint",
    "dl_opt",
    "eps_opt",
    "examples_factor",
    "exchange_rate_size",
    "frontier",
    "gain",
    "gamma",
    "steps_factor",
]
