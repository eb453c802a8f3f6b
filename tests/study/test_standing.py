"""How far a study is: phase, sizes, goals reached, and the time left from finished runs."""

import pytest

from lightning_noise.report.terms import SECONDS
from lightning_noise.study import Search
from lightning_noise.study.goal import Goal, GoalOutcome
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import LogUniform, distributions
from lightning_noise.study.standing import Standing, seconds_left, standing
from lightning_noise.study.task import RERUN, SEARCH, Outcome, RunKey

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


def outcome(seconds=None, late=None):
    goals = {}
    for goal, steps in zip(GOALS, (5.0, late), strict=True):
        status = "incomplete" if steps is None else "reached"
        goals[goal] = GoalOutcome(status, steps, 0.5)
    noise = {} if seconds is None else {SECONDS: seconds}
    return Outcome(goals, pruned=False, noise=noise)


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
    assert found == Standing(0, 10, (SEARCH,), (8,), {"early": 0, "late": 0}, 2, None)
    assert str(found) == "search at 8; reached early 0/2, late 0/2"


def test_runs_of_an_older_version_give_no_time():
    found = standing([plan(8)], GOALS, {key(8, 0): outcome()}, [key(8, 1)], 1)
    assert (found.done, found.seconds_left) == (1, None)


def test_phases_sizes_goals_and_time_are_in_the_line():
    done = {
        key(8, 0): outcome(60.0, late=9.0),
        key(8, 1): outcome(120.0),
        key(8, 2): outcome(90.0),
        key(16, 0): outcome(30.0),
    }
    running = [RunKey(8, RERUN, 0, 1), key(16, 1)]
    found = standing([plan(8), plan(16)], GOALS, done, running, 2)
    assert found.reached == {"early": 2, "late": 1}
    # two reruns of 90 s at 8; at 16 two trials and two reruns of 30 s; by two workers
    assert found.seconds_left == (2 * 90 + 4 * 30) / 2
    line = "rerun and search at 8, 16; reached early 2/2, late 1/2; about 2.5 min left"
    assert str(found) == line


def test_many_goals_are_counted_together():
    reached = {f"goal {i}": i for i in range(5)}
    found = Standing(3, 9, (SEARCH,), (8,), reached, 6, 7200.0)
    assert str(found) == "search at 8; 5 goals reached 10/30; about 2 h left"
