"""Bins of steps, from a made-up run."""

import pytest

from benchmarks.atlas.atlas_noise import Setting, cut, rows_of, sums
from benchmarks.atlas.noise_run import Measured
from benchmarks.atlas.tasks import TASKS
from lightning_noise import Moments
from lightning_noise.report.terms import INCOMPLETE, REACHED
from lightning_noise.study.goal import GoalOutcome

TASK = TASKS["digits_mlp_sgd"]
STEP = Moments(5.5, 4.5, 1.0, 0.5)  # noise 2, signal 3.5


def run(*outcomes):
    """60 steps, every second one measured."""
    found = Measured(losses=[float(step) for step in range(60)])
    found.moments["euclidean"] = dict.fromkeys(range(0, 60, 2), STEP)
    for goal, (status, steps) in zip(TASK.all_goals, outcomes, strict=True):
        found.outcomes[goal.name] = GoalOutcome(status, steps, None)
    return rows_of(TASK, Setting(32, 0.5), 7, found)


def test_every_step_before_the_last_goal_is_in_one_bin():
    rows = run((REACHED, 19.4), (REACHED, 30.0), (REACHED, 57.2))
    assert sum(row.steps for row in rows) == 58
    assert [row.last_step for row in rows if row.bin == 9] == [20, 30, 58]
    assert [row.bin for row in rows if row.goal == "early"] == list(range(10))


def test_a_bin_holds_sums_over_the_measured_steps_and_the_mean_loss_of_all():
    first = run((REACHED, 20.0), (REACHED, 30.0), (REACHED, 60.0))[0]
    assert (first.steps, first.measured, first.loss) == (2, 1, 0.5)
    assert (first.signal, first.noise) == pytest.approx((3.5, 2.0))
    assert (first.signal_sq, first.noise_sq, first.cross) == pytest.approx((12.25, 4.0, 7.0))


def test_a_run_that_fails_keeps_its_rows_with_their_status():
    rows = run((REACHED, 20.0), (INCOMPLETE, None), (INCOMPLETE, None))
    assert {row.goal: row.status for row in rows} == {"early": REACHED, "middle": INCOMPLETE}
    assert rows[-1].last_step == 60


def test_a_short_stretch_leaves_bins_out():
    assert [len(steps) for steps in cut(5, 8)].count(1) == 3
    assert sum(len(steps) for steps in cut(5, 8)) == 3


def test_no_measured_step_gives_sums_of_zero():
    assert sums({}, range(3))["measured"] == 0
