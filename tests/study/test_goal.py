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


READINGS = {
    "reached": [(0, 3.0), (1, 20.0), (2, 0.0)],
    "incomplete": [(0, 3.0), (1, 22.9), (2, 2.5)],
    "diverged": [(0, 3.0), (1, 23.1), (2, 0.5)],
    "not finite": [(0, 3.0), (1, math.inf), (2, 0.5)],
}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("scale", [1.0, 1e-6, -1e-6, -1.0, -1e6])
@pytest.mark.parametrize("offset", [0.0, -3.0, 3.0, 1000.0])
def test_neither_unit_nor_zero_nor_sign_of_a_metric_changes_what_becomes_of_a_run(
    name, scale, offset
):
    """A negative scale is the same metric to be maximised."""
    shifted = []
    for step, value in READINGS[name]:
        shifted.append((step, scale * (value + offset)))
    mode = "max" if scale < 0 else "min"
    found = watch(shifted, target=scale * (1.0 + offset), mode=mode)
    assert found.status == watch(READINGS[name]).status


def test_a_bounded_metric_cannot_get_so_bad():
    assert watch([(0, 0.5), (1, 0.0)], target=0.6, mode="max").status == "incomplete"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_training_loss_that_is_not_finite_ends_an_open_goal_alone(mode):
    still, done = (GoalWatch(Goal(metric="m", target=0.5, mode=mode)) for _ in range(2))
    start, end = (1.0, 0.0) if mode == "min" else (0.0, 1.0)
    for step, value in [(0, start), (1, end)]:
        done.update(step, step, value)
    still.update(0, 0, start)
    for one in (still, done):
        one.fail()
    assert (still.outcome().status, done.outcome().status) == ("diverged", "reached")


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
