"""A curvature probe from the micro-batches of one optimizer step, with the accumulating ``.grad``
as their mean gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.curvature_average import CurvatureProbe, contrasts, moments_from_forms
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
        self._contrasts = [[torch.zeros_like(p) for p in self._parameters] for _ in self._rows]
        self._groups = groups

    @property
    def is_complete(self) -> bool:
        """Whether all gradients have been seen."""
        return len(self._sizes) == self._groups

    def add(self, size: float) -> None:
        """``.grad`` now holds one micro-batch of ``size`` examples more.

        From the sums S_i that it holds one after the other, Σ s_i g_i = Σ (s_i − s_(i+1)) S_i: no
        gradient need be kept.
        """
        at = len(self._sizes)
        self._sizes.append(size)
        for row, contrast in zip(self._rows, self._contrasts, strict=True):
            following = row[at + 1] if at + 1 < self._groups else 0.0
            for p, total in zip(self._parameters, contrast, strict=True):
                if p.grad is not None:
                    total.add_(p.grad, alpha=row[at] - following)

    def vectors(self) -> list[list[Tensor]]:
        """The sum of all gradients and the contrasts, as they are scaled in ``.grad``."""
        dense = [
            torch.zeros_like(p) if p.grad is None else as_dense(p.grad) for p in self._parameters
        ]
        return [dense, *self._contrasts]

    def probe(self, forms: Tensor, scale: float) -> CurvatureProbe:
        """The probe from vᵀHv of :meth:`vectors`, shape (1 + contrasts,).

        Args:
            forms: with H of the unscaled mean loss of the last micro-batch.
            scale: factor by which each micro-batch's mean gradient stands in ``.grad``.
        """
        flat = [float(inner(v, v)) / scale**2 for v in self.vectors()]
        curved = [form / scale**2 for form in forms.tolist()]
        c_mean = sum(1 / b for b in self._sizes) / self._groups**2
        c_contrasts = [
            sum(s * s / b for s, b in zip(row, self._sizes, strict=True)) for row in self._rows
        ]
        euclidean = moments_from_forms(flat[0] / self._groups**2, c_mean, flat[1:], c_contrasts)
        moments = moments_from_forms(curved[0] / self._groups**2, c_mean, curved[1:], c_contrasts)
        return CurvatureProbe(moments, euclidean, float(min(curved) <= 0))
