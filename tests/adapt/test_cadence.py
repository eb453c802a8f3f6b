"""How often an adaptive run measures, from the durations of its steps."""

import pytest

from lightning_noise import AdaptiveBatchSize
from lightning_noise.adapt.actions import MeasureEvery
from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.cadence import MOST, SHARE, Cadence, is_known
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.core.estimate import NoiseEstimate

KNOWN = NoiseEstimate(20.0, 12.0, 40.0, 1.0, 20.0, True, 20, 9.0)  # no size is changed: waste
HARDLY_KNOWN = NoiseEstimate(40.0, 10.0, 400.0, 1.0, 40.0, True, 20, 9.0)  # nor here


@pytest.mark.parametrize(
    ("ratio", "every"), [(1.0, 1), (1.1, 1), (1.11, 2), (1.5, 5), (2.5, 15), (9.0, MOST)]
)
def test_measuring_adds_at_most_a_tenth(ratio, every):
    cadence = Cadence(2).timed([ratio] * 9, [1.0] * 9).decided()
    assert (cadence.every, cadence.ratio) == (every, ratio)
    assert (ratio - 1) / cadence.every <= SHARE + 1e-9 or every == MOST


def test_a_pause_of_the_machine_does_not_count():
    cadence = Cadence(2).timed([1.2, 1.2, 90.0, 1.2, 1.2], [1.0] * 5).decided()
    assert cadence.every == 2


def test_every_step_is_measured_until_both_kinds_are_timed():
    cadence = Cadence().decided()
    assert cadence == Cadence()
    cadence = cadence.timed([2.0] * 16, []).decided()
    assert cadence.every == 2
    cadence = cadence.timed([2.0] * 4, [1.0] * 4).decided()
    assert (cadence.every, cadence.ratio) == (2, None)


def test_a_step_that_gets_shorter_when_measured_is_noise():
    assert Cadence(2).timed([0.9] * 9, [1.0] * 9).decided().ratio == 1.0
    assert Cadence(2).timed([0.0] * 9, [0.0] * 9).decided().ratio is None


def test_at_a_new_size_the_kinds_are_compared_anew():
    """Measuring takes 1.5 in addition: 15 in 16 steps of 1.0, and 2 in 16 steps of 8.0."""
    cadence = Cadence(2).timed([2.5] * 9, [1.0] * 9).decided()
    cadence = cadence.resized().decided()
    assert (cadence.every, cadence.ratio) == (15, 2.5)
    cadence = cadence.timed([9.5] * 9, [8.0] * 9).decided()
    assert (cadence.every, cadence.ratio) == (2, 1.1875)


# In a run


def play(measured_step, other_step, decisions=4, may_rest=True, estimate=KNOWN):
    """Decisions after every 20 steps of a run of one size."""
    machine = Adaptation(AdaptiveBatchSize())
    machine.begin_fit(Mark(0, 0.0), BatchPlan(16, 1, 1))
    machine.begin_epoch(0, 1000)
    asked = []
    for number in range(1, decisions + 1):
        every = machine.state.cadence.every
        measured = 20 // every
        others = 20 - measured
        machine.timed([measured_step] * measured, [other_step] * others)
        now = Measurement(estimate, 16, 20 * number, 320.0 * number, None, None)
        asked.append(machine.inside_epoch(now, Limits(may_rest=may_rest)))
    return machine, asked


def test_a_run_measures_rarely_where_that_is_dear():
    machine, asked = play(2.5, 1.0)
    assert asked == [[MeasureEvery(2)], [MeasureEvery(15)], [], []]
    assert machine.state.times.medians() == {16: 1.0}
    longer = "a measured step takes 2.5 times as long"
    assert f"one of every 15 steps is measured, since {longer}" in machine.summary()


def test_a_run_measures_every_step_until_it_knows_the_noise_scale():
    """Every second one comes first, until it is known what measuring takes."""
    machine, asked = play(2.5, 1.0, estimate=HARDLY_KNOWN)
    assert asked == [[MeasureEvery(2)], [MeasureEvery(1)], [], []]
    machine.timed([2.5] * 20, [])
    machine.inside_epoch(Measurement(KNOWN, 16, 100, 1600.0, None, None), Limits(may_rest=True))
    assert machine.state.cadence.every == 15


def test_a_size_that_comes_before_the_noise_scale_is_known_is_measured_rarely_after_it():
    """No step of that size is left out until then, so what measuring takes is that of before."""
    cadence = Cadence(2).timed([2.5] * 9, [1.0] * 9).decided(known=False).resized()
    cadence = cadence.timed([2.5] * 20, []).decided(known=False)
    assert (cadence.every, cadence.ratio) == (1, 2.5)
    assert cadence.decided().every == 15


def test_a_machine_that_slows_down_while_all_steps_are_measured_does_not_change_the_ratio():
    cadence = Cadence(2).timed([2.5] * 9, [1.0] * 9).decided(known=False)
    assert cadence.timed([5.0] * 64, []).decided().ratio == 2.5


@pytest.mark.parametrize(
    ("low", "high", "known"),
    [(10.0, 40.0, True), (10.0, 41.0, False), (10.0, None, False), (None, None, False)],
)
def test_a_noise_scale_is_known_within_a_factor_of_four(low, high, known):
    assert is_known(HARDLY_KNOWN._replace(low=low, high=high)) is known


def test_a_run_measures_every_step_where_that_is_cheap():
    machine, asked = play(1.05, 1.0, decisions=6)
    assert asked == [[MeasureEvery(2)], [MeasureEvery(1)], [], [], [], []]
    assert machine.state.times.medians() == {16: pytest.approx(1.0, rel=1e-12)}
    assert not any("is measured" in line for line in machine.summary())


def test_a_run_measures_as_often_as_the_user_says():
    machine, asked = play(2.5, 1.0, may_rest=False)
    assert asked == [[], [], [], []]
    assert machine.state.cadence.every == 1


def test_a_state_keeps_how_often_a_run_measures():
    machine, _ = play(2.5, 1.0)
    again = Adaptation(machine.settings)
    again.load_state_dict(machine.state_dict())
    assert again.state == machine.state and again.state.cadence.every == 15
