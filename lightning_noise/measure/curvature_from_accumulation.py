"""A curvature probe from the micro-batches of one optimizer step, with the accumulating ``.grad``
as their mean gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.curvature_average import CurvatureProbe, contrasts, moments_from_forms
from lightning_noise.core.moments import Moments
from lightning_noise.probes.norms import as_dense
from lightning_noise.probes.second_derivatives import inner

CONTRASTS = 2  # buffers of the gradient's size


class Accumulated:
    """Gradients of the first K − 1 of K micro-batches: their sum is ``.grad``, their contrasts are
    kept in two buffers.

    The K-th micro-batch gives the curvature, so that no gradient has seen its examples.

    Args:
        parameters: that require a gradient.
        groups: K − 1, at least 2.
    """

    def __init__(self, parameters: Sequence[Parameter], groups: int) -> None:
        self._parameters = list(parameters)
        self._rows = contrasts(groups, CONTRASTS)
        self._sizes: list[float] = []
        self._contrasts = [self._zeros() for _ in self._rows]
        self._groups = groups

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self._parameters]

    @property
    def is_complete(self) -> bool:
        """Whether all gradients have been seen."""
        return len(self._sizes) == self._groups

    def add(self, size: float) -> None:
        """``.grad`` now holds one more micro-batch, of ``size`` examples.

        ``.grad`` holds the sums S_i one after the other, and Σ s_i g_i = Σ (s_i − s_(i+1)) S_i, so
        that no single gradient need be kept.
        """
        at = len(self._sizes)
        self._sizes.append(size)
        for row, contrast in zip(self._rows, self._contrasts, strict=True):
            following = [*row[1:], 0.0]
            factor = row[at] - following[at]
            for p, total in zip(self._parameters, contrast, strict=True):
                if p.grad is not None:
                    total.add_(p.grad, alpha=factor)

    def vectors(self) -> list[list[Tensor]]:
        """The sum of all gradients and the contrasts, as they are scaled in ``.grad``."""
        total: list[Tensor] = []
        for p in self._parameters:
            if p.grad is None:
                total.append(torch.zeros_like(p))
            else:
                total.append(as_dense(p.grad))
        return [total, *self._contrasts]

    def probe(self, forms: Tensor, scale: float) -> CurvatureProbe:
        """The probe from vᵀHv of :meth:`vectors`, shape (1 + contrasts,).

        Args:
            forms: with H of the unscaled mean loss of the last micro-batch.
            scale: the factor that ``.grad`` has on each micro-batch's mean gradient.
        """
        squares = [inner(vector, vector) for vector in self.vectors()]
        euclidean = self._moments(torch.stack(squares), scale)
        moments = self._moments(forms, scale)
        is_indefinite = min(forms.tolist()) <= 0
        return CurvatureProbe(moments, euclidean, float(is_indefinite))

    def _moments(self, forms: Tensor, scale: float) -> Moments:
        square = scale**2
        unscaled = [form / square for form in forms.tolist()]
        pairs = self._groups**2
        mean_form = unscaled[0] / pairs
        of_sum = [1.0] * self._groups
        c_mean = _inverse_size(of_sum, self._sizes) / pairs
        c_contrasts = [_inverse_size(row, self._sizes) for row in self._rows]
        return moments_from_forms(mean_form, c_mean, unscaled[1:], c_contrasts)


def _inverse_size(coefficients: Sequence[float], sizes: Sequence[float]) -> float:
    """Σ s_i²/b_i: the variance of Σ s_i g_i is tr(Σ) times this."""
    return sum(s * s / b for s, b in zip(coefficients, sizes, strict=True))
