"""Averages by key, tallies by optimizer: rows in, estimates and readings out."""

import json
import math

import pytest

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.moments import Key, Moments
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.core.windows import Windows
from lightning_noise.measure.pending_rows import ReadRow, Totals
from lightning_noise.measure.readings import Readings, Tally
from lightning_noise.measure.skips import NOT_FINITE, ONE_GROUP

KEYS = [Key(), Key(layer="net")]
STEP = Moments(5.0, 4.5, 1.0, 0.5)
TEST = Reason("test", Severity.SKIP, "the test says so", "Ask the test.")


def opened(**arguments):
    readings = Readings(**arguments)
    averages = {**{key: Windows(0.99) for key in KEYS}, Key("hessian"): CurvatureAverage(0.99)}
    readings.open(averages, [""])
    return readings


def step(*moments, size=8.0, fault=None, rate=0.1):
    values = [value for one in moments for value in one]
    return ReadRow("", values, size, fault, rate)


def test_every_key_gets_its_own_moments_and_sinks_hear_of_both():
    readings, heard = opened(), []
    readings.observe(heard.append)
    other = Moments(3.0, 2.0, 1.0, 0.5)
    readings.take_step("", KEYS, step(STEP, other))
    assert [(reading.key, reading.moments) for reading in heard] == [
        (KEYS[0], STEP),
        (KEYS[1], other),
    ]
    assert heard[0].estimate.steps == 1 and heard[1].estimate is None  # layers are asked on demand
    assert readings.estimate(Key(layer="net")).noise == other.noise
    assert readings.trajectories.keys() == {Key(), Key("hessian")}
    assert readings.tallies[""].global_size == 8.0


@pytest.mark.parametrize(
    ("moments", "fault", "reason"),
    [
        (Moments(math.nan, 1.0, 1.0, 0.5), None, NOT_FINITE),
        (Moments(math.nan, 1.0, 1.0, 0.5), TEST, TEST),
        (Moments(1.0, 1.0, 0.5, 0.5), None, ONE_GROUP),
    ],
)
def test_a_step_that_cannot_be_used_is_counted_once_by_its_reason(moments, fault, reason):
    readings = opened()
    readings.take_step("", KEYS, step(moments, moments, fault=fault))
    assert readings.tallies[""].skipped == {reason: 1} and readings.steps("") == 1
    assert readings.estimate(Key()).steps == 0


def test_a_step_that_is_not_a_key_s_is_not_skipped():
    readings = opened()
    readings.take_step("", KEYS, step(STEP, Moments(0.0, 0.0, 0.0, 0.0)))
    assert readings.estimate(Key(layer="net")).steps == 0 and not readings.tallies[""].skipped


def test_a_larger_step_ages_the_average_as_much_as_the_steps_it_stands_for():
    """One step of four times the examples decays by decay⁴."""
    aged, plain = opened(decay_by_examples=True), opened()
    for readings in (aged, plain):
        for size in (8.0, 32.0):
            readings.take_step("", KEYS, step(STEP, STEP, size=size))
    ratio = aged.averages[Key()].averages[-1].n_eff / plain.averages[Key()].averages[-1].n_eff
    d = 0.99**4
    assert ratio == pytest.approx((1 + d) ** 2 / (1 + d * d) / ((1 + 0.99) ** 2 / (1 + 0.99**2)))


def test_the_state_is_exact_and_leaves_out_what_is_not_measured_now():
    readings = opened()
    for rate in (0.1, 0.001):
        readings.take_step("", KEYS, step(STEP, STEP, rate=rate))
    readings.tallies[""].add(Totals(16.0, [1.0]))
    state = json.loads(json.dumps(readings.state_dict()))
    again = opened()
    again.load_state_dict(state)
    assert again.state_dict() == readings.state_dict()
    fewer = Readings()
    fewer.load_state_dict(state)  # before the averages are opened
    fewer.open({Key(): Windows(0.99)}, [""])
    assert fewer.estimate(Key()) == readings.estimate(Key())
    assert fewer.averages.keys() == {Key()} and fewer.tallies[""] == readings.tallies[""]


def test_skipped_steps_are_in_the_state_by_code_and_counted_on():
    readings = opened()
    for fault in (TEST, None, TEST):
        readings.take_step("", KEYS, step(Moments(math.nan, 1.0, 1.0, 0.5), STEP, fault=fault))
    state = json.loads(json.dumps(readings.state_dict()))
    assert state["tallies"][""]["skipped"] == [
        {"code": "test", "text": "the test says so", "fix": "Ask the test.", "count": 2},
        {"code": "not_finite", "text": NOT_FINITE.text, "fix": NOT_FINITE.fix, "count": 1},
    ]
    again = opened()
    again.load_state_dict(state)
    again.take_step("", KEYS, step(Moments(math.nan, 1.0, 1.0, 0.5), STEP, fault=TEST))
    assert again.tallies[""].skipped == {TEST: 3, NOT_FINITE: 1}


def test_texts_of_an_earlier_version_get_their_codes():
    """Where the text contains a name it is kept under one code."""
    readings = opened()
    state = readings.state_dict()
    named = "the gradient of Adam was not zeroed"
    state["tallies"][""]["skipped"] = {ONE_GROUP.text: 2, named: 4}
    readings.load_state_dict(state)
    readings.take_step("", KEYS, step(Moments(1.0, 1.0, 0.5, 0.5), STEP))
    earlier = Reason("earlier_version", Severity.SKIP, named)
    assert readings.tallies[""].skipped == {ONE_GROUP: 3, earlier: 4}
    assert readings.steps("") == 7


def test_the_size_of_a_data_set_is_what_a_whole_epoch_used():
    tally = Tally()
    for used, whole in ((96.0, True), (96.0, False), (40.0, True)):
        tally.add(Totals(used, [1.0]))
        tally.next_epoch(whole=whole)
        assert tally.data_size == (40.0 if used == 40.0 else 96.0)


def test_ranks_with_the_same_gradient_are_caught():
    tally = Tally()
    tally.add(Totals(8.0, [0.25, 0.5, 0.25]))
    assert tally.twins == (0, 2)
