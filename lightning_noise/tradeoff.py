"""The large-batch model under its public name.

See :mod:`lightning_noise.core.tradeoff` and :mod:`lightning_noise.core.progress`.
"""

from lightning_noise.core.progress import PredictedCurve, predicted_curve
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
    "PredictedCurve",
    "dl_opt",
    "eps_opt",
    "examples_factor",
    "exchange_rate_size",
    "frontier",
    "gain",
    "gamma",
    "predicted_curve",
    "steps_factor",
]
