"""Least squares of ln S on the curve S = S_min (1 + b/B), as a function of ln b.

The other unknown, ln S_min, is linear: its best value at a given b is a mean.
"""

import math
import operator
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
        log_examples = list(map(operator.add, logs, map(math.log, sizes)))
        self.rss_of_constant_steps = _centred_squares(logs)
        self.rss_of_perfect_scaling = _centred_squares(log_examples)

    def _residuals(self, u: float) -> list[float]:
        """ln S_i − ln(1 + e^u/B_i), not centred."""
        b = math.exp(u)
        return [y - math.log1p(b / size) for size, y in zip(self._sizes, self._logs, strict=True)]

    def rss(self, u: float) -> float:
        """The sum of squares at this u."""
        return _centred_squares(self._residuals(u))

    def limit(self, best: float, confidence: float) -> float:
        """The RSS up to which a u is not excluded.

        RSS_min (1 + t²/(m − 2)), with t at m − 2 degrees of freedom.
        """
        nu = len(self._logs) - 2
        quantile = student_t_quantile(0.5 + confidence / 2, nu)
        return self.rss(best) * (1 + quantile**2 / nu)

    def log_s_min(self, u: float) -> float:
        """The best ln S_min at this u."""
        return math.fsum(self._residuals(u)) / len(self._logs)

    def minimum(self) -> float:
        """The u of the least RSS: the best point of a grid, then Gauss–Newton steps.

        It lies at an end of the grid, far from all sizes, where the steps show no bend.
        """
        count = round((self._to - self._from) / _GRID)
        grid = [self._from + i * _GRID for i in range(count + 1)]
        u = min(grid, key=self.rss)
        for _ in range(100):
            step = self._gauss_newton(u)
            step = max(-_GRID, min(_GRID, step))  # far from all sizes the slope vanishes
            # a step below 1e-3 is safe, and RSS too flat there to compare
            while abs(step) > 1e-3 and self.rss(u + step) > self.rss(u):
                step /= 2
            if abs(step) < 1e-13 or not self._from < u + step < self._to:
                break
            u += step
        return u

    def _gauss_newton(self, u: float) -> float:
        b = math.exp(u)
        residuals = _centred(self._residuals(u))
        slopes = _centred([1 / (1 + size / b) for size in self._sizes])  # d ln(1 + e^u/B)/du
        squares = _dot(slopes, slopes)
        if squares <= 0:
            return 0.0
        return _dot(residuals, slopes) / squares

    def crossing(self, best: float, limit: float, side: int) -> float:
        """The outermost u on one side of ``best`` (−1 or +1) where RSS falls to ``limit``.

        RSS must exceed ``limit`` far out.
        """
        outside = self._to
        if side < 0:
            outside = self._from
        inside = best
        points = int(abs(outside - best) / _GRID)
        for i in range(points, 0, -1):
            u = best + side * i * _GRID
            if self.rss(u) <= limit:
                inside = u
                break
            outside = u
        for _ in range(45):
            middle = (inside + outside) / 2
            if self.rss(middle) <= limit:
                inside = middle
            else:
                outside = middle
        return inside


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _centred_squares(values: Sequence[float]) -> float:
    centred = _centred(values)
    return _dot(centred, centred)


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum(map(operator.mul, x, y))
