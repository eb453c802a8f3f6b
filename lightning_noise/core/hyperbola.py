"""Least squares of ln S on the curve S = S_min (1 + b/B), as a function of the one unknown that is
not linear.
"""

import math
from collections.abc import Sequence

from lightning_noise.core.student_t import student_t_quantile

_SPAN = 16.0  # ln b this far beyond the sizes: the curve is a straight line there, to 1e-7
_GRID = 0.25


class Profile:
    """RSS(u) = min over S_min of Σ (ln S_i − ln S_min − ln(1 + e^u/B_i))², u = ln b.

    The best ln S_min at a given u is a mean. Towards u → −∞ the curve is constant in B, towards u →
    +∞ it is S ∝ 1/B.

    Args:
        sizes: different batch sizes B_i, ascending.
        logs: ln S_i.
    """

    def __init__(self, sizes: Sequence[float], logs: Sequence[float]) -> None:
        self._sizes = list(sizes)
        self._logs = list(logs)
        self._from = math.log(sizes[0]) - _SPAN
        self._to = math.log(sizes[-1]) + _SPAN
        self.rss_of_constant_steps = _centred_squares(logs)
        self.rss_of_perfect_scaling = _centred_squares(
            [y + math.log(size) for size, y in zip(sizes, logs, strict=True)]
        )

    def _residuals(self, u: float) -> list[float]:
        """ln S_i − ln(1 + e^u/B_i), not centred."""
        b = math.exp(u)
        return [y - math.log1p(b / size) for size, y in zip(self._sizes, self._logs, strict=True)]

    def rss(self, u: float) -> float:
        """The sum of squares at this u."""
        return _centred_squares(self._residuals(u))

    def limit(self, best: float, confidence: float) -> float:
        """The RSS up to which a u is not excluded: RSS_min (1 + t²/(m − 2)), t at m − 2 degrees of
        freedom.
        """
        nu = len(self._logs) - 2
        return self.rss(best) * (1 + student_t_quantile(0.5 + confidence / 2, nu) ** 2 / nu)

    def log_s_min(self, u: float) -> float:
        """The best ln S_min at this u."""
        return math.fsum(self._residuals(u)) / len(self._logs)

    def minimum(self) -> float:
        """The u of the least RSS: the best point of a grid, then Gauss–Newton steps.

        It lies at an end of the grid, far from all sizes, where the steps show no bend.
        """
        count = round((self._to - self._from) / _GRID)
        u = min((self._from + i * _GRID for i in range(count + 1)), key=self.rss)
        for _ in range(100):
            step = max(
                -_GRID, min(_GRID, self._gauss_newton(u))
            )  # far from all sizes the slope vanishes
            while abs(step) > 1e-3 and self.rss(u + step) > self.rss(
                u
            ):  # a shorter step is safe, and RSS too flat to compare
                step /= 2
            if abs(step) < 1e-13 or not self._from < u + step < self._to:
                break
            u += step
        return u

    def _gauss_newton(self, u: float) -> float:
        residuals = _centred(self._residuals(u))
        slopes = _centred(
            [1 / (1 + size / math.exp(u)) for size in self._sizes]
        )  # d ln(1 + e^u/B)/du
        squares = math.fsum(s * s for s in slopes)
        return (
            math.fsum(r * s for r, s in zip(residuals, slopes, strict=True)) / squares
            if squares > 0
            else 0.0
        )

    def crossing(self, best: float, limit: float, side: int) -> float:
        """The outermost u on one side of ``best`` (−1 or +1) where RSS falls to ``limit``; it must
        lie above it far out.
        """
        outside = self._from if side < 0 else self._to
        inside = best
        for i in range(int(abs(outside - best) / _GRID), 0, -1):
            u = best + side * i * _GRID
            if self.rss(u) <= limit:
                inside = u
                break
            outside = u
        for _ in range(45):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self.rss(middle) <= limit else (inside, middle)
        return inside


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _centred_squares(values: Sequence[float]) -> float:
    return math.fsum(value * value for value in _centred(values))
