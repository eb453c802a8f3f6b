"""The closed form itself: against the recursion, against real SGD with drawn noise, and against a
search on a grid.
"""

import math

import numpy as np
import pytest

from testing.quadratic import CURVATURE, GOAL, best_steps, expected_loss, steps_to_goal


@pytest.mark.parametrize(("B", "rate"), [(1, 0.01), (64, 0.3), (4096, 1.9), (math.inf, 1.0)])
def test_closed_form_is_the_recursion(B, rate):
    square = np.ones(1000)
    for step in range(200):
        assert expected_loss(step, B, rate) == pytest.approx(
            (CURVATURE * square).sum() / 2, rel=1e-12
        )
        square = (1 - rate * CURVATURE) ** 2 * square + rate**2 * CURVATURE / B


def test_sgd_with_drawn_noise_has_this_loss_on_average():
    rng, B, rate = np.random.default_rng(0), 64, 0.3
    theta = rng.standard_normal((400, 1000))
    for _ in range(50):
        noise = rng.standard_normal(theta.shape) * np.sqrt(CURVATURE / B)
        theta -= rate * (CURVATURE * theta + noise)
    losses = (CURVATURE * theta**2).sum(axis=1) / 2
    assert abs(losses.mean() - expected_loss(50, B, rate)) < 4 * losses.std() / len(losses) ** 0.5


@pytest.mark.parametrize("B", [8, 512, 32768])
def test_best_rate_beats_every_rate_of_a_grid_and_crosses_at_the_goal(B):
    best = best_steps(B)
    grid = best.rate * np.exp(np.linspace(-0.2, 0.2, 81))
    assert min(steps_to_goal(B, rate) for rate in grid) >= best.steps * (1 - 1e-9)
    assert expected_loss(best.steps, B, best.rate) == pytest.approx(GOAL, rel=1e-9)
