"""The steps at every batch size, predicted from the noise scales along a single run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_noise.core.checks import check_positive


class PredictedCurve(NamedTuple):
    """The hyperbola S(B) = S_min + E_min/B that one run predicts.

    Attributes:
        s_min: optimizer steps in the limit of large batches.
        e_min: examples in the limit of small batches.
    """

    s_min: float
    e_min: float

    @property
    def b_crit(self) -> float:
        """Critical batch size E_min/S_min, in examples; infinite where no step made progress."""
        if self.s_min == 0:
            return math.inf
        return self.e_min / self.s_min

    def steps(self, global_size: float) -> float:
        """Optimizer steps of the same progress at ``global_size``.

        >>> PredictedCurve(180, 42_000).steps(100)
        600.0
        """
        check_positive(global_size=global_size)
        return self.s_min + self.e_min / global_size

    def examples(self, global_size: float) -> float:
        """Examples of the same progress at ``global_size``.

        >>> PredictedCurve(180, 42_000).examples(100)
        60000.0
        """
        return global_size * self.steps(global_size)


def predicted_curve(
    noise_scales: Sequence[float],
    global_size: float,
    steps: Sequence[float] | None = None,
) -> PredictedCurve:
    """The steps that other batch sizes would take for the progress of a run at ``global_size``.

    A step at batch size B makes the progress of 1/(1 + R/B) steps of the largest possible batch
    (McCandlish et al. 2018, eq. 2.7), R the noise scale at that moment. So a step of this run
    weighs w = 1/(1 + R/B), and the same progress takes S(B') = Σ w (1 + R/B') steps elsewhere:
    S_min = Σ w, E_min = Σ w R, and B_crit = E_min/S_min is the average of the noise scale over
    progress. At ``global_size`` itself the prediction is the run. This assumes the best learning
    rate at every moment, at both batch sizes.

    Args:
        noise_scales: R along the run, >= 0 and in examples. It may be infinite: such a step makes
            no progress in the limit of large batches.
        global_size: batch size of the run.
        steps: how many steps each noise scale stands for; one by default.

    Raises:
        ValueError: there is no noise scale, one is negative or NaN, or a number of steps or
            ``global_size`` is not positive and finite.

    Source: McCandlish et al. 2018, arXiv 1812.06162, appendix D, read backwards.

    >>> found = predicted_curve([100, 900], global_size=100, steps=[300, 300])
    >>> round(found.s_min), round(found.e_min), round(found.b_crit, 1)
    (180, 42000, 233.3)
    """
    check_positive(global_size=global_size)
    counts = _counts(noise_scales, steps)
    s_min = 0.0
    e_min = 0.0
    for scale, count in zip(noise_scales, counts, strict=True):
        if not scale >= 0:
            raise ValueError(
                f"noise_scales must be >= 0, got {scale!r}. Where |G|² is not above zero the noise "
                "scale is math.inf."
            )
        if math.isinf(scale):
            e_min += count * global_size  # the limit of weight · scale; the weight itself is 0
            continue
        weight = 1 / (1 + scale / global_size)
        s_min += count * weight
        e_min += count * weight * scale
    return PredictedCurve(s_min, e_min)


def _counts(noise_scales: Sequence[float], steps: Sequence[float] | None) -> Sequence[float]:
    if len(noise_scales) == 0:
        raise ValueError("noise_scales must hold at least one noise scale, got none.")
    if steps is None:
        return [1.0] * len(noise_scales)
    if len(steps) != len(noise_scales):
        lengths = f"{len(steps)} and {len(noise_scales)}"
        raise ValueError(f"steps and noise_scales must have one length, got {lengths}.")
    for count in steps:
        check_positive(steps=count)
    return steps
