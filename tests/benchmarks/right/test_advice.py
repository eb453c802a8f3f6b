"""The advice of the verdict in situations with a known right answer."""

import math

import pytest
import torch

from benchmarks.harness.rows import committed
from benchmarks.right import advice
from benchmarks.right.advice import CASES, GOAL, Case, rate_of, steps_to_goal

ROWS = {row.situation: row for row in committed(advice.BENCHMARK)}


def test_every_answer_is_right():
    assert list(ROWS) == [case.name for case in CASES]
    for row in ROWS.values():
        assert row.answer == row.right_answer, row.situation


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.exact == row.exact])
def test_the_exact_noise_scale_is_in_the_interval(name):
    row = ROWS[name]
    assert row.low <= row.exact
    assert math.isnan(row.high) or row.exact <= row.high


@pytest.mark.parametrize("name", ["far too small", "right", "far too large"])
def test_trained_steps_are_as_predicted(name):
    """Within the interval and three standard errors of the ratio of trained steps."""
    row = ROWS[name]
    reach = 3 * row.standard_error
    assert row.predicted_low - reach <= row.measured <= row.predicted_high + reach


def test_steps_to_the_goal_are_those_of_the_contraction():
    """E|δ|² falls by the factor 1 − 2ε + ε²(1 + (d + 1)/B) in a step.

    The standard error of the mean is 0.3 %.
    """
    case = Case("", 50, 0, "")
    rate = rate_of(case)
    contraction = 1 - 2 * rate + rate**2 * (1 + (case.d + 1) / case.size)
    found = torch.tensor([steps_to_goal(case, case.size, rate, seed) for seed in range(40)])
    assert float(found.mean()) == pytest.approx(math.log(GOAL) / math.log(contraction), rel=0.01)
