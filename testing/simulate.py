"""Moments of simulated Gaussian group gradients with a known |G|² and tr(Σ)."""

import numpy as np

from lightning_noise.core.moments import Moments


def gaussian_moments(
    rng: np.random.Generator,
    steps: int,
    sizes: list[float],
    *,
    noise_scale: float,
    dimensions: int = 400,
    weights: list[float] | None = None,
) -> list[Moments]:
    """Steps whose groups of ``sizes`` examples have |G|² = 1 and tr(Σ) = ``noise_scale``, spread
    evenly over ``dimensions``.
    """
    b = np.asarray(sizes, dtype=float)
    w = np.full(len(b), 1 / len(b)) if weights is None else np.asarray(weights) / np.sum(weights)
    g = (
        rng.standard_normal((steps, len(b), dimensions))
        * np.sqrt(noise_scale / dimensions / b)[None, :, None]
    )
    g[:, :, 0] += 1.0
    q_small = np.einsum("k,nkd,nkd->n", w, g, g)
    mean = np.einsum("k,nkd->nd", w, g)
    q_big = (mean * mean).sum(axis=1)
    c_small, c_big = float((w / b).sum()), float((w * w / b).sum())
    return [
        Moments(float(s), float(q), c_small, c_big) for s, q in zip(q_small, q_big, strict=True)
    ]
