"""How far a study is: phase, sizes, goals reached, and the time left from finished runs."""

import pytest

from lightning_noise.report.terms import SECONDS
from lightning_noise.study import Search
from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.ranges import LogUniform
from lightning_noise.study.space import distributions
from lightning_noise.study.standing import Standing, seconds_left, standing
from lightning_noise.study.task import REPEAT, SEARCH, Record, RunKey, Series

GOALS = (
    Goal(metric="val_loss", target=1.0, name="early"),
    Goal(metric="val_loss", target=0.2, name="late"),
)


def plan(size):
    return SizePlan(
        global_size=size,
        space=distributions({"learning_rate": LogUniform(0.1, 1.0)}, size),
        goals=GOALS,
        search=Search(trials=3, seeds=2),
        budget_steps=100,
        every=1,
    )


def left_by(seconds=None, late=None):
    """A run that reaches the early goal after 5 steps, and the late one after ``late``."""
    readings = Series((0, 5), (2.0, 1.0))
    trained = 100
    if late is not None:
        readings = Series((0, 5, late), (2.0, 1.0, 0.2))
        trained = late
    noise = {} if seconds is None else {SECONDS: seconds}
    found = {("validation", "val_loss"): readings}
    return (Record(trained, False, found, None, noise),)


def key(size, trial, phase=SEARCH):
    return RunKey(size, phase, trial, 0)


@pytest.mark.parametrize(
    ("left", "taken", "workers", "seconds"),
    [
        ({8: 10}, {8: [2.0, 4.0]}, 1, 30.0),
        ({8: 10}, {8: [2.0, 4.0]}, 5, 6.0),
        ({8: 10, 16: 4}, {8: [2.0], 16: [5.0]}, 2, 20.0),
        ({8: 1}, {8: [3.0]}, 16, 3.0),  # no less than one run
        ({64: 2}, {8: [9.0], 128: [1.0]}, 1, 2.0),  # like the nearest size
        ({8: 10}, {}, 2, None),  # nothing is known
        ({}, {8: [1.0]}, 2, None),  # nothing is left
    ],
)
def test_the_time_left(left, taken, workers, seconds):
    assert seconds_left(left, taken, workers) == seconds


def test_before_any_run_is_finished_there_is_no_time():
    found = standing([plan(8), plan(16)], GOALS, {}, [key(8, 0), key(8, 1)], 2)
    assert found == Standing(0, 14, (SEARCH,), (8,), {"early": 0, "late": 0}, 2, None)
    assert str(found) == "search at 8; reached early 0/2, late 0/2"


def test_runs_of_an_older_version_give_no_time():
    found = standing([plan(8)], GOALS, {key(8, 0): left_by()}, [key(8, 1)], 1)
    assert (found.done, found.seconds_left) == (1, None)


def test_phases_sizes_goals_and_time_are_in_the_line():
    done = {
        key(8, 0): left_by(60.0, late=9),
        key(8, 1): left_by(120.0),
        key(8, 2): left_by(90.0),
        key(16, 0): left_by(30.0),
    }
    running = [RunKey(8, REPEAT, 0, 100_000), key(16, 1)]
    found = standing([plan(8), plan(16)], GOALS, done, running, 2)
    assert found.reached == {"early": 2, "late": 1}
    # two repeats and two reruns of 90 s at 8; at 16 two trials more, of 30 s each; by two workers
    assert found.seconds_left == (4 * 90 + 6 * 30) / 2
    line = "repeat and search at 8, 16; reached early 2/2, late 1/2; about 4.5 min left"
    assert str(found) == line


def test_many_goals_are_counted_together():
    reached = {f"goal {i}": i for i in range(5)}
    found = Standing(3, 9, (SEARCH,), (8,), reached, 6, 7200.0)
    assert str(found) == "search at 8; 5 goals reached 10/30; about 2 h left"
