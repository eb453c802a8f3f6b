"""Quartiles, elasticity and the line through step times."""

import pytest

from lightning_noise.adapt.step_times import KEPT, Line, StepTimes


def test_quartiles_do_not_see_a_pause():
    times = StepTimes().adding(8, [1.0] * 20 + [100.0] * 3)
    assert times.at(8) == (23, 1.0, 1.0, 1.0)


def test_the_latest_durations_are_kept():
    times = StepTimes().adding(8, [9.0] * KEPT).adding(8, [1.0] * KEPT)
    assert times.durations[8] == (1.0,) * KEPT


def test_few_steps_say_nothing():
    times = StepTimes().adding(8, [1.0] * 4)
    assert times.at(8) is None and times.sizes == [] and times.elasticity(8) is None
    assert times.adding(16, []) is times


@pytest.mark.parametrize("fixed", [0.0, 1.0, 64.0, 1e4])
def test_the_elasticity_of_a_line_is_exact(fixed):
    line = Line(fixed, 2.0)
    times = StepTimes()
    for size in (16, 32, 64):
        times = times.adding(size, [line.at(size)] * 5)
    share = 2.0 * 64 / line.at(64)
    assert times.elasticity(64) == pytest.approx(share, rel=1e-12)
    assert times.elasticity(16) is None
    found = times.line()
    assert (found.fixed, found.per_example) == pytest.approx((fixed, 2.0), rel=1e-9, abs=1e-9)


def test_shorter_steps_of_a_larger_batch_are_noise():
    times = StepTimes().adding(16, [1.1] * 5).adding(32, [1.0] * 5)
    assert times.elasticity(32) == 0.0
    assert times.line().per_example == 0.0


def test_a_line_has_no_negative_part():
    times = StepTimes().adding(16, [1.0] * 5).adding(32, [4.0] * 5)
    assert times.line().fixed == 0.0


def test_sizes_in_another_unit():
    times = StepTimes().adding(16, [1.0] * 5).adding(32, [1.5] * 5).scaled(10)
    assert times.sizes == [160, 320]
    assert times.line() == pytest.approx((0.5, 1 / 320))
