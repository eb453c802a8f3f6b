"""A run's noise scale by learning rate: what the end of a decaying schedule says does not count."""

import json

import pytest

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.trajectory import Trajectory


def resolved(step, b):
    return NoiseEstimate(b, b / 2, 2 * b, 1.0, b, True, step, 50.0)


def unresolved(step, low):
    return NoiseEstimate(None, low, None, 0.0, 1.0, False, step, 50.0)


def along(steps):
    trajectory = Trajectory()
    for step, (b, rate) in enumerate(steps, start=1):
        trajectory.add(resolved(step, b), rate=rate, size=32.0)
    return trajectory


def test_warm_up_and_decay_do_not_count():
    """Both ends of the schedule are below a third of the peak; the middle has a mean of 20."""
    steps = [(500.0, 0.01), (10.0, 0.5), (20.0, 1.0), (30.0, 0.4), (900.0, 0.2), (9000.0, 0.001)]
    trajectory = along(steps)
    assert trajectory.mean == 20.0 and trajectory.has_decayed
    assert trajectory.high.last.step == 4 and trajectory.high.first.step == 2
    assert (
        trajectory.first.step == 1 and trajectory.last.step == 6 and trajectory.resolved_steps == 6
    )


def test_a_constant_rate_counts_whole():
    for rate in (0.1, 0.0, None):
        trajectory = along([(10.0, rate), (30.0, rate)])
        assert trajectory.mean == 20.0 and not trajectory.has_decayed


def test_the_bins_hold_a_third_of_the_peak():
    """A rate of exactly a third counts; one of 0.28 does not (bins are 15 % wide)."""
    assert along([(10.0, 0.3), (30.0, 0.1)]).mean == 20.0
    assert along([(10.0, 0.3), (30.0, 0.28 * 0.3)]).mean == 10.0


def test_the_end_of_the_high_part_may_be_unresolved():
    trajectory = along([(10.0, 1.0)])
    trajectory.add(unresolved(2, 80.0), rate=1.0, size=64.0)
    trajectory.add(unresolved(3, 900.0), rate=0.01, size=64.0)
    assert trajectory.high.end == (2, None, 80.0, None) and trajectory.high.size == 64.0


def test_the_state_is_exact():
    trajectory = along([(500.0, 0.01), (10.0, 0.5), (9000.0, 0.0)])
    copy = Trajectory()
    copy.load_state_dict(json.loads(json.dumps(trajectory.state_dict())))
    assert copy.state_dict() == trajectory.state_dict() and copy.high == trajectory.high
    assert copy.has_decayed is trajectory.has_decayed is True


def test_a_state_without_learning_rates_is_taken_up():
    old = {
        "first": [3, 10.0, 5.0, 20.0],
        "last": [9, 30.0, 15.0, 60.0],
        "resolved_steps": 4,
        "sum": 80.0,
    }
    trajectory = Trajectory()
    trajectory.load_state_dict(old)
    assert trajectory.mean == 20.0 and trajectory.last.step == 9
    trajectory.add(resolved(10, 120.0), rate=0.1)
    assert trajectory.mean == pytest.approx(200 / 5) and trajectory.resolved_steps == 5
