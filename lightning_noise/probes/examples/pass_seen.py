"""The record of one backward pass."""

from typing import NamedTuple

from lightning_noise.core.reasons import Reason
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.examples.coverage import Cause


class PassSeen(NamedTuple):
    """What one backward pass has shown.

    Args:
        squares: Σ_i |c_i|² by key, fp64 of shape (keys,).
        dropped: parameters without per-example gradients, and why.
        fault: why the step cannot be used.
        matched: whether any layer had the examples along dimension 0.
        positions: layers whose rows are positions, not examples.
        several: parameters that are used more than once.
        as_long: by layer, whether each call had as many positions as examples, so that one cannot
            be told from the other.
    """

    squares: Wide
    dropped: dict[str, Cause]
    fault: Reason | None
    matched: bool
    positions: frozenset[str]
    several: frozenset[str]
    as_long: dict[str, bool]
