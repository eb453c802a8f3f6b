"""Goals, budgets, and the crossing that a sequence of readings gives."""

import math

import numpy as np
import pytest

from lightning_noise.study import Budget, Goal
from lightning_noise.study.goal import GoalWatch


def watch(readings, **changes):
    """``readings``: (step, value) pairs at one example a step."""
    found = GoalWatch(Goal(**{"metric": "loss", "target": 1.0, **changes}))
    for step, value in readings:
        found.update(step, step, value)
    return found.outcome()


def test_the_first_crossing_counts():
    assert watch([(0, 3.0), (4, 2.0), (8, 0.0), (12, 5.0), (16, 0.5)]) == ("reached", 6.0, 0.0)


def test_more_can_be_better():
    assert watch([(0, 0.1), (10, 0.5), (20, 0.9)], target=0.8, mode="max") == (
        "reached",
        pytest.approx(17.5),
        0.9,
    )


def test_a_run_that_ends_first_is_incomplete_not_diverged():
    assert watch([(0, 3.0), (10, 1.5), (20, 2.5)]) == ("incomplete", None, 1.5)
    assert watch([]) == ("incomplete", None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.0 + 10 * 2.0 + 0.1])
def test_not_finite_or_far_above_the_start_is_diverged_for_good(bad):
    assert watch([(0, 3.0), (1, 2.0), (2, bad), (3, 0.5)]) == ("diverged", None, 2.0)


def test_far_but_not_too_far_may_come_back():
    assert watch([(0, 3.0), (1, 22.9), (2, 0.0)]).status == "reached"


def accuracy(losses, readings=(), **changes):
    """What came of an accuracy goal while the training loss was this at every step."""
    goal = {"metric": "accuracy", "target": 0.9, "mode": "max", **changes}
    found = GoalWatch(Goal(**goal))
    for step, value in readings:
        found.update(step, step, value)
    for step, loss in enumerate(losses):
        found.update_loss(step, loss)
    return found.outcome().status


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2.3 * 11 + 0.1])
def test_an_accuracy_diverges_by_the_training_loss(bad):
    assert accuracy([2.3, 2.0, bad, 2.3]) == "diverged"
    assert accuracy([2.3, 2.0, 25.2, 2.3]) == "incomplete"
    assert accuracy([2.3, bad], [(0, 0.1), (1, 0.95)]) == "reached"


def test_the_loss_is_smoothed_as_the_goal_is():
    assert accuracy([2.0, *[1.0] * 9, 30.0]) == "diverged"
    assert accuracy([2.0, *[1.0] * 9, 30.0], smoothing=10) == "incomplete"
    assert accuracy([2.0, *[30.0] * 30], smoothing=10) == "diverged"


def test_losses_from_below_0_and_from_0_on():
    assert accuracy([-2.0, 17.9]) == "incomplete"
    assert accuracy([-2.0, 18.1]) == "diverged"
    assert accuracy([0.0, 1.0]) == "incomplete"  # nothing to compare with


def test_a_minimised_goal_goes_by_its_own_metric():
    assert accuracy([2.3, 1e6], mode="min", target=0.1) == "incomplete"
    assert accuracy([2.3, math.nan], mode="min", target=0.1) == "diverged"


def test_what_was_reached_stays_reached():
    assert watch([(0, 3.0), (1, 0.0), (2, math.nan)]) == ("reached", pytest.approx(2 / 3), 0.0)


def test_a_goal_that_holds_from_the_start_is_refused():
    with pytest.raises(
        ValueError,
        match=r"already holds in the first reading \(0.9 at step 0\).*harder target",
    ):
        watch([(0, 0.9)])


def test_smoothing_is_in_examples_and_delays_by_about_as_many():
    """A straight fall of 1 in 1000 examples is seen 50 examples late at any batch size."""
    for global_size in (1, 5, 20):
        found = GoalWatch(Goal(metric="loss", target=0.5, smoothing=50))
        for step in range(1000 // global_size):
            found.update(step, step * global_size, 1 - step * global_size / 1000)
        crossing = found.outcome().steps * global_size
        # the exponential mean of a line, read every s examples, lags by s/(exp(s/50) − 1)
        lag = global_size / math.expm1(global_size / 50)
        assert crossing == pytest.approx(500 + lag, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metric": ""}, TypeError, "metric must be the name"),
        ({"target": math.nan}, ValueError, "target must be a finite number, got nan"),
        ({"target": True}, ValueError, "target must be a finite number, got True"),
        ({"mode": "least"}, ValueError, "mode must be 'min'.*got 'least'"),
        ({"on": "test"}, ValueError, "on must be 'train' or 'validation', got 'test'"),
        ({"smoothing": "64"}, ValueError, "smoothing must be a number of examples >= 0, got '64'"),
        ({"smoothing": -1}, ValueError, "smoothing must be a number of examples >= 0, got -1"),
    ],
)
def test_bad_goals_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Goal(**{"metric": "loss", "target": 1.0, **arguments})


def test_a_target_of_numpy_can_be_stored():
    assert type(Goal(metric="loss", target=np.float32(0.5)).target) is float


def test_budgets():
    assert Budget(steps=100).steps_at(64) == 100
    assert Budget(examples=1000).steps_at(64) == 15
    assert Budget(examples=10).steps_at(64) == 0
    with pytest.raises(ValueError, match="Budget needs steps or examples"):
        Budget()
    with pytest.raises(ValueError, match="examples of a Budget must be None or an int >= 1, got 0"):
        Budget(steps=3, examples=0)
