"""What a gradient probe passes to the estimator, and the key of the noise scale it belongs to."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Key(NamedTuple):
    """Names one noise scale.

    ``Key()`` is the main one: all parameters of the only optimizer, in the Euclidean metric.
    """

    geometry: str = "euclidean"
    optimizer: str = ""
    layer: str = ""


class Moments(NamedTuple):
    """Squared gradient norms at two effective batch sizes, of one optimizer step.

    A step sees K groups of examples; group i has ``b_i`` examples, mean gradient ``g_i`` and weight
    ``w_i`` in the gradient ``ḡ = Σ w_i g_i`` that the optimizer gets (``Σ w_i = 1``). The fields
    are additive: every rank contributes a partial, pre-weighted record, and the field-wise sum over
    all ranks is that of the step (see :func:`add`).

    Args:
        q_small: ``Σ w_i |g_i|²``, loss²/parameter².
        q_big: ``|ḡ|²``, loss²/parameter².
        c_small: ``Σ w_i / b_i``, 1/examples.
        c_big: ``Σ w_i² / b_i``, 1/examples.

    Since ``E q = |G|² + c · tr(Σ)`` for both pairs, two lines give ``|G|²`` and ``tr(Σ)`` without
    bias, for equal and unequal groups alike; with equal groups this is McCandlish et al. 2018
    (arXiv 1812.06162), eq. A.2.

    >>> m = Moments(q_small=4.1e-2, q_big=2.8e-3, c_small=1 / 32, c_big=1 / 512)
    >>> round(m.signal, 9), round(m.noise, 6), round(m.noise / m.signal, 2)
    (0.000253333, 1.303893, 5146.95)
    """

    q_small: float
    q_big: float
    c_small: float
    c_big: float

    @property
    def signal(self) -> float:
        """Unbiased ``|G|²`` of this step (GᵀMG in a metric M).

        It may be negative, and must not be clamped before averaging.
        """
        return (self.c_small * self.q_big - self.c_big * self.q_small) / self._spread()

    @property
    def noise(self) -> float:
        """Unbiased ``tr(Σ)`` (tr(MΣ) in a metric M): the summed variance of one gradient."""
        return (self.q_small - self.q_big) / self._spread()

    def _spread(self) -> float:
        if not self.has_groups:
            needs = "Moments need two groups of gradients, that is c_small > c_big"
            given = f"c_small={self.c_small} and c_big={self.c_big}"
            fix = "Use more micro-batches, more ranks or single examples in this step"
            raise ValueError(f"{needs}, but {given}. {fix}.")
        return self.c_small - self.c_big

    @property
    def has_groups(self) -> bool:
        """Whether the step had at least two groups, without which nothing can be determined."""
        return self.c_small - self.c_big > 1e-9 * self.c_small

    @property
    def is_finite(self) -> bool:
        """Whether all four numbers are finite (an overflow step under a loss scaler is not)."""
        return all(map(math.isfinite, self))


def add(parts: Iterable[Moments]) -> Moments:
    """Field-wise sum of partial records.

    >>> add([Moments(1.0, 2.0, 0.5, 0.25), Moments(3.0, 2.0, 0.5, 0.25)])
    Moments(q_small=4.0, q_big=4.0, c_small=1.0, c_big=0.5)
    """
    columns = list(zip(*parts, strict=True))
    if not columns:
        return Moments(0.0, 0.0, 0.0, 0.0)
    return Moments(*map(math.fsum, columns))


def from_contributions(
    contribution_sq: Sequence[float],
    shares: Sequence[float],
    sizes: Sequence[float],
    q_big: float,
) -> Moments:
    """Moments from what every group ADDED to the step's gradient, for losses with any weights.

    Group i added ``c_i = w_i g_i`` and holds the share ``p_i`` of the step's examples. Under a
    token-mean loss the weight follows the tokens and the share follows the examples, so that
    neither examples nor tokens alone are the right unit; this form is right for both. Where
    ``p_i = w_i`` it equals the plain definition. Groups with a share of zero are skipped.

    Args:
        contribution_sq: ``|c_i|²`` for each group.
        shares: ``p_i``; normalised here.
        sizes: ``b_i`` in examples.
        q_big: ``|Σ c_i|²``.

    Raises:
        ValueError: a size or the sum of the shares is not positive, or a share is negative.

    >>> from_contributions([4.0, 1.0], [0.5, 0.5], [1, 1], q_big=9.0)
    Moments(q_small=10.0, q_big=9.0, c_small=1.0, c_big=0.5)
    """
    total = math.fsum(shares)
    if min(shares, default=0.0) < 0 or total <= 0 or min(sizes, default=0.0) <= 0:
        given = f"shares={shares}, sizes={sizes}"
        raise ValueError(f"shares must be >= 0 with a positive sum and sizes > 0, got {given}.")
    q_small, c_small, c_big = [], [], []
    for sq, share, size in zip(contribution_sq, shares, sizes, strict=True):
        if share <= 0:
            continue
        p = share / total
        q_small.append(sq / p)
        c_small.append(p / size)
        c_big.append(p * p / size)
    return Moments(
        q_small=math.fsum(q_small),
        q_big=q_big,
        c_small=math.fsum(c_small),
        c_big=math.fsum(c_big),
    )
