"""What a verdict says, by what was measured."""

import math
import re

import pytest

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import estimate_from
from lightning_noise.core.moments import Moments
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.measure.skips import ONE_GROUP
from lightning_noise.say.values import AGREEMENT
from lightning_noise.say.verdict import Verdict
from lightning_noise.say.words import number


def findings(moments, *, global_size=32.0, data_size=None, skipped=None):
    average, trajectory = RunningAverage(0.99), Trajectory()
    for m in moments:
        average.update(m)
        trajectory.add(estimate_from(average), rate=0.1)
    return Verdict(
        estimate=estimate_from(average, data_size=data_size),
        average=average,
        trajectory=trajectory,
        probe="micro_batches",
        groups="4 micro-batches per step on 1 rank are 4 groups",
        global_size=global_size,
        learning_rate=0.1,
        data_size=data_size,
        skipped=skipped or {},
    )


def steps(trace, grad_sq, wobble, grad_wobble=0.1):
    """Moments of groups 8 and 32 whose step values alternate around (trace, grad_sq)."""
    result = []
    for i in range(40):
        x, y = trace * (1 + wobble * (-1) ** i), grad_sq * (1 + grad_wobble * (-1) ** (i // 2))
        result.append(Moments(y + x / 8, y + x / 32, 1 / 8, 1 / 32))
    return result


def test_verdict_of_a_resolved_run():
    """B_simple 96 [90, 103]: S/S_min is 4 at 32 and 2.5 at 64, so that 37.5 % of the steps fall."""
    lines = str(findings(steps(96.0, 1.0, 0.1))).splitlines()
    advice, change, time, value, costs, guide, probe = map(str.strip, lines)
    interval = re.search(r"scale, (9\d[.\d]*) \[(\d+[.\d]*), (1\d\d)\] examples", advice)
    assert advice.startswith("Your batch size of 32 is about 3 times below the noise scale, 9")
    assert 89 < float(interval[2]) < 96 < float(interval[3]) < 104
    assert change.startswith(
        "Raising it to 64 with the learning rate times 1.6 would need about 38"
    )
    assert change.endswith("] fewer steps for about 25 % [24, 26] more examples.")
    assert (
        time == "It saves time where a step of 64 takes less than 1.6 times as long as one of 32."
    )
    assert value.startswith("noise scale: b_simple 9") and "at the start (measured step 6)" in value
    assert (
        costs == "batch size 32 at learning rate 0.1: 4 times the minimum number of "
        "steps, 1.33 times the minimum number of examples"
    )
    assert guide == AGREEMENT
    assert (
        probe
        == "probe micro_batches: 4 micro-batches per step on 1 rank are 4 groups; 40 steps measured"
    )


def test_measured_step_times_say_what_a_change_does_to_the_time():
    """A step of 64 takes 1.2 times as long and does the work of 1.6: three quarters of the time."""
    found = findings(steps(96.0, 1.0, 0.1))._replace(seconds={32.0: 0.010, 64.0: 0.012})
    assert str(found).splitlines()[2].strip() == (
        "On this machine a step of 64 took 1.2 times as long as one of 32, so it would need about "
        "25 % less time."
    )


def test_without_both_step_times_the_verdict_names_the_break_even():
    found = findings(steps(96.0, 1.0, 0.1))._replace(seconds={32.0: 0.010})
    assert "It saves time where a step of 64 takes less than 1.6 times" in str(found)


def test_adam_takes_the_root_of_the_gain():
    text = str(findings(steps(96.0, 1.0, 0.1))._replace(rate_exponent=0.5))
    assert "with the learning rate times 1.26 would need" in text  # sqrt(1.6)


def test_verdict_of_a_decaying_schedule_rests_on_the_high_rates():
    """B_simple is near 96 at a rate of 0.1 and near 9600 at the end, where the rate is a thousandth
    of it.
    """
    found = findings(steps(96.0, 1.0, 0.1))
    end = found.estimate._replace(noise_scale=9600.0, low=9000.0, high=10000.0, steps=80)
    way = Trajectory()
    way.add(found.estimate._replace(noise_scale=96.0, low=90.0, high=100.0), rate=0.1, size=32.0)
    way.add(end, rate=0.0001, size=32.0)
    found = found._replace(estimate=end, trajectory=way, learning_rate=0.0001)
    advice, _, _, first, costs, *_ = str(found).splitlines()
    assert advice == (
        "Your batch size of 32 is about 3 times below the noise scale while the learning rate was "
        "at least a third of its peak, 96 [90, 100] examples."
    )
    assert "96 on average while the learning rate was at least a third of its peak" in first
    assert "9600 [9000, 10000] at the end, at a learning rate of 0.0001, which makes" in first
    assert costs.strip() == (
        "batch size 32 while the learning rate was at least a third of its peak, that is "
        "until measured step 40, where the "
        "noise scale was 96 [90, 100]: 4 times the minimum number of steps, 1.33 "
        "times the minimum number of examples"
    )


def test_a_bound_above_the_average_is_what_the_costs_rest_on():
    """At least 9000 at the end, 96 on average: the average is not what the end costs."""
    found = findings(steps(96.0, 1.0, 0.1))
    end = found.estimate._replace(noise_scale=None, low=9000.0, high=None, resolved=False)
    advice, change, again, _, costs, *_ = str(found._replace(estimate=end)).splitlines()
    assert advice == (
        "Your batch size of 32 is at least 280 times below the noise scale, which is not resolved "
        "but at least 9000 examples."
    )
    assert "Raising it to 256 with" in change and again.endswith(" Then measure again.")
    assert costs.strip().endswith(": at least 282 times the minimum number of steps")


def test_a_short_window_is_not_told_to_raise_decay():
    found = findings(steps(96.0, 1.0, 0.1, 5.0))
    short = RunningAverage(0.9)
    for m in steps(96.0, 1.0, 0.1, 5.0):
        short.update(m)
    text = str(found._replace(average=short))
    assert "raise decay" not in text and "has changed lately" in text


def test_verdict_of_an_unresolved_run():
    text = str(findings(steps(96.0, 1.0, 0.1, 5.0)))
    first, fix, value, *_ = map(str.strip, text.splitlines())
    start = "Whether your batch size of 32 is right cannot be determined: the noise scale is not"
    assert first.startswith(f"{start} resolved but at least 3")
    assert fix.startswith("About ") and fix.endswith(" steps like these resolve it.")
    assert value.startswith("noise scale: b_simple not resolved, at least ")
    assert "not resolved from zero" in text


def test_verdict_of_nothing():
    text = str(findings([], global_size=None, skipped={ONE_GROUP: 3}))
    assert text.splitlines()[0] == "noise scale: b_simple not measured yet (examples)"
    warning = "warning: skipped 3 steps: only one group of gradients in the step"
    assert text.splitlines()[-1].strip() == warning


def test_verdict_of_too_few_steps():
    text = str(findings(steps(96.0, 1.0, 0.1)[:4]))
    first, fix, value, *_ = map(str.strip, text.splitlines())
    assert first.endswith("cannot be determined: the noise scale has not been measured.")
    assert fix == "An interval needs five measured steps: train longer."
    assert value.startswith("noise scale: b_simple not measured yet")
    assert "needs five measured steps" in text and "upper bound" not in text


def test_one_step_that_dominates_is_reported():
    heavy = [
        *steps(96.0, 1.0, 0.1),
        Moments(1 + 9600 / 8, 1 + 9600 / 32, 1 / 8, 1 / 32),
        *steps(96.0, 1.0, 0.1),
    ]
    assert "one step holds" in str(findings(heavy))


def test_a_noise_scale_of_the_order_of_the_data_set_gives_no_advice():
    found = findings(steps(960.0, 1.0, 0.1), data_size=100)
    first, fix, *_ = map(str.strip, str(found).splitlines())
    assert first.startswith("Whether your batch size of 32 is right cannot be determined")
    assert fix.startswith("B_simple is of the order of the data set (100 examples)")
    assert found.advice.change is None


def test_in_a_notebook_the_advice_is_bold_and_text_is_escaped():
    found = findings(steps(96.0, 1.0, 0.1))._replace(warnings=("a < b",))
    html = found._repr_html_()
    assert html.startswith("<p><b>Your batch size of 32 is about 3 times below")
    assert "<li>warning: a &lt; b</li>" in html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unbounded"),
        (0, "0"),
        (4.0, "4"),
        (1234567.0, "1230000"),
        (-0.5, "-0.5"),
        (math.inf, "inf"),
    ],
)
def test_number(value, text):
    assert number(value) == text
