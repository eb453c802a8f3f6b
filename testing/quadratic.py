"""A noisy quadratic model whose steps to a goal are known in closed form, for judging a study of
batch sizes.

Loss ½ Σ h_i θ_i², gradient h_i θ_i plus Gaussian noise of variance c_i/B, curvature and noise h_i =
c_i = 1/i for i = 1 … 1000, E θ_i² = 1 at the start, goal 0.01, plain SGD at a constant rate ε (the
model of Zhang et al. 2019, arXiv 1907.04164). Then

    E θ_i² ← (1 − ε h_i)² E θ_i² + ε² c_i/B

so E θ_i² after t steps is r_i^t + (1 − r_i^t) x_i with r_i = (1 − ε h_i)² and the floor x_i = ε c_i
/ (B h_i (2 − ε h_i)). With c = h the floor of a coordinate grows with its curvature. Hence a floor
above the start (x_i > 1) anywhere means x_1 > 1 for the steepest one, whose own loss is then at
least h_1/2: beyond any goal below that. Wherever the goal can be reached all coordinates fall, the
loss falls, and there is one crossing.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

GOAL = 0.01
CURVATURE = 1 / np.arange(1, 1001)  # h_i = c_i, shape (1000,)


class Best(NamedTuple):
    """The fewest expected steps to the goal at one batch size, and the constant rate that needs
    them.
    """

    steps: float
    rate: float


def expected_loss(
    steps: float | NDArray[np.float64],
    B: float,
    rate: float,
    curvature: NDArray[np.float64] = CURVATURE,
) -> float | NDArray[np.float64]:
    """Expected loss after ``steps`` steps; an array of steps gives an array, and ``B = inf`` is
    descent without noise.

    >>> round(float(expected_loss(0, 64, 0.1)), 4)  # half the thousandth harmonic number
    3.7427
    """
    contraction = (1 - rate * curvature) ** 2
    decay = contraction ** np.asarray(steps, dtype=float)[..., None]  # (..., d)
    floor = rate / (B * (2 - rate * curvature))
    return (curvature * (decay + (1 - decay) * floor)).sum(axis=-1) / 2


def lowest_loss(B: float, rate: float, curvature: NDArray[np.float64] = CURVATURE) -> float:
    """The expected loss at which a constant rate ends; infinite where the rate diverges."""
    if rate * curvature.max() >= 2:
        return math.inf
    return float((curvature * rate / (B * (2 - rate * curvature))).sum() / 2)


def steps_to_goal(
    B: float, rate: float, goal: float = GOAL, curvature: NDArray[np.float64] = CURVATURE
) -> float:
    """Steps at which the expected loss crosses ``goal``, a real number: a run counts the next whole
    one.

    Infinite where it never does.

    >>> round(steps_to_goal(256, 0.5), 1)
    3053.1
    >>> steps_to_goal(256, 1.9), steps_to_goal(256, 2.1)  # above the goal; diverges
    (inf, inf)
    """
    if lowest_loss(B, rate, curvature) >= goal:
        return math.inf

    def excess(steps: float) -> float:
        return math.log(float(expected_loss(steps, B, rate, curvature)) / goal)

    last = 1.0
    while excess(last) > 0:
        last *= 2
    return float(brentq(excess, 0, last, xtol=1e-9, rtol=1e-13))


def best_steps(B: float, goal: float = GOAL, curvature: NDArray[np.float64] = CURVATURE) -> Best:
    """The best constant rate for this batch size and its steps to the goal, to about eight digits
    in the steps.

    The steps are inverse to the rate while it is small and infinite where the floor meets the goal:
    one minimum between.

    >>> [round(best_steps(size).steps) for size in (1, 32, 1024, 32768)]
    [461032, 14632, 982, 698]
    """
    edge = 2 / float(curvature.max())
    if lowest_loss(B, edge * (1 - 1e-12), curvature) > goal:
        edge = float(
            brentq(
                lambda rate: lowest_loss(B, rate, curvature) - goal,
                edge * 1e-12,
                edge * (1 - 1e-12),
            )
        )
    found = minimize_scalar(
        lambda share: math.log(steps_to_goal(B, share * edge, goal, curvature)),
        bounds=(0.05, 1 - 1e-9),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return Best(steps_to_goal(B, float(found.x) * edge, goal, curvature), float(found.x) * edge)
