import json
import math

import numpy as np
import pytest

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.moments import Moments
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.core.windows import Windows
from testing.simulate import gaussian_moments


def scaled(moments, factor):
    return [Moments(m.q_small * factor, m.q_big * factor, m.c_small, m.c_big) for m in moments]


def test_after_a_fast_change_a_short_window_speaks():
    """Large gradients at noise scale 33, then small ones at 136: the long average shows about 33
    for hundreds of steps.
    """
    rng = np.random.default_rng(0)
    windows, long_alone = Windows(0.99), RunningAverage(0.99)
    for m in scaled(gaussian_moments(rng, 400, [16] * 4, noise_scale=33), 100.0) + gaussian_moments(
        rng, 60, [16] * 4, noise_scale=136
    ):
        windows.update(m)
        long_alone.update(m)
    stale = long_alone.means()
    assert stale[0] / stale[1] < 45
    e = windows.estimate()
    assert e.low < 136 and (e.high is None or e.high > 136)


def test_when_nothing_changes_the_longest_window_speaks():
    rng, longest = np.random.default_rng(1), 0
    for _ in range(100):
        windows = Windows(0.99)
        for m in gaussian_moments(rng, 150, [8] * 4, noise_scale=20, dimensions=30):
            windows.update(m)
        longest += windows.current().decay == 0.99
    assert longest > 90 - 4 * math.sqrt(100 * 0.1 * 0.9)


def test_young_windows_show_the_longest():
    windows = Windows(0.99)
    for m in gaussian_moments(np.random.default_rng(2), 3, [8] * 4, noise_scale=20):
        windows.update(m)
    assert windows.current().decay == 0.99
    assert windows.estimate().steps == 3 and windows.estimate().noise_scale is None


@pytest.mark.parametrize(
    ("decay", "expected"), [(0.8, [0.8]), (0.95, [0.9, 0.95]), (0.999, [0.9, 0.97, 0.999])]
)
def test_windows_are_shorter_than_the_given_one(decay, expected):
    assert [average.decay for average in Windows(decay).averages] == expected


def test_decay_by_examples_never_falls_below_its_floor():
    """d = max(0.9, decay^(n/n_ref)): a step of 100 reference sizes still leaves 0.9 of the past."""
    average = RunningAverage(0.99)
    average.update(Moments(3.0, 2.0, 1.0, 0.5))
    average.update(Moments(5.0, 2.0, 1.0, 0.5), age=100)
    assert average.means()[0] == pytest.approx((0.9 * 2 + 6) / 1.9)


def test_state_is_exact_and_plain():
    rng = np.random.default_rng(3)
    whole, first = Windows(0.99), Windows(0.99)
    moments = gaussian_moments(rng, 40, [8] * 4, noise_scale=20)
    for m in moments[:25]:
        whole.update(m)
        first.update(m)
    second = Windows(0.99)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for m in moments[25:]:
        whole.update(m)
        second.update(m)
    assert second.estimate() == whole.estimate()
    assert second.state_dict() == whole.state_dict()


def test_one_heavy_step_is_noticed():
    average = RunningAverage(0.99)
    for _ in range(30):
        average.update(Moments(3.0, 2.0, 1.0, 0.5))
    assert average.dominance < 0.1
    average.update(Moments(300.0, 2.0, 1.0, 0.5))
    assert average.dominance > 0.9


def test_trajectory_counts_resolved_values_only():
    trajectory, windows = Trajectory(), Windows(0.99)
    values = []
    for m in gaussian_moments(np.random.default_rng(4), 30, [8] * 4, noise_scale=20):
        windows.update(m)
        e = windows.estimate()
        trajectory.add(e)
        if e.noise_scale is not None:
            values.append(e.noise_scale)
    assert 0 < len(values) < 30
    assert trajectory.mean == pytest.approx(sum(values) / len(values))
    assert trajectory.first.noise_scale == values[0] and trajectory.last.noise_scale == values[-1]
    copy = Trajectory()
    copy.load_state_dict(json.loads(json.dumps(trajectory.state_dict())))
    assert copy.state_dict() == trajectory.state_dict() and copy.first == trajectory.first
    assert Trajectory().mean is None
