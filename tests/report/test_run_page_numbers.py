"""What is read from the logs of runs, and the numbers that follow, against known values."""

import math

import pytest

from lightning_noise.core.advice import Situation, advise
from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import estimate_from
from lightning_noise.core.history import Moment
from lightning_noise.core.moments import Moments
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.report.page.answer import answer_of
from lightning_noise.report.page.costs import Range, costs_of
from lightning_noise.report.page.course import courses_of
from lightning_noise.report.page.find_logs import find_courses
from lightning_noise.report.page.health import health_of
from lightning_noise.report.page.log import LoggedText, Point, RunLog
from lightning_noise.report.page.times import Span, span_of
from lightning_noise.say.advice_text import Context, advice_lines
from lightning_noise.say.values import Basis
from lightning_noise.say.verdict import UNRESOLVED, Verdict
from testing.run_logs import LOGGERS, unresolved, values, write_events, write_run

ROWS = {9: unresolved(50.0), 19: values(128.0, 96.0, 192.0), 29: values()}


def course(rows, *, times=(), verdict=None, timed=True):
    """The course of a run with these values, logged at these times."""
    scalars = {}
    for place, (step, row) in enumerate(rows.items()):
        order = times[place] if times else float(place)
        for name, value in row.items():
            scalars.setdefault(name, []).append(Point(step, value, order))
    texts = {}
    if verdict is not None:
        texts["noise_scale/verdict"] = LoggedText(max(rows), verdict)
    (found,) = courses_of(RunLog("run", scalars, texts, timed))
    return found


# ---- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOGGERS)
def test_the_values_are_those_that_a_logger_wrote(tmp_path, kind):
    (found,) = find_courses([write_run(tmp_path / "run", ROWS, kind=kind)])
    assert found.title == str(tmp_path / "run")
    assert found.moments == [
        Moment(9, 1, None, 50.0, None, 32.0),
        Moment(19, 2, 128.0, 96.0, 192.0, 32.0),
        Moment(29, 3, 160.0, 108.0, 250.0, 32.0),
    ]
    assert found.components == [(9, 2.0, 320.0), (19, 2.0, 320.0), (29, 2.0, 320.0)]
    assert found.rates == {9: 0.125, 19: 0.125, 29: 0.125}
    assert len(found.times) == (3 if kind == "TensorBoard" else 0)
    assert found.others == []


def test_runs_below_a_folder_are_found_once(tmp_path):
    first = write_run(tmp_path / "runs" / "version_0", ROWS)
    second = write_run(tmp_path / "runs" / "version_1", ROWS, kind="CSV")
    (first / "batch_size").mkdir()  # as the chart of TensorBoard has it
    found = find_courses([tmp_path / "runs", second])
    assert [one.title for one in found] == [str(first), str(second)]


def test_each_optimizer_has_its_own_course(tmp_path):
    row = {}
    for optimizer, b in (("Adam", 64.0), ("Adam-1", 512.0)):
        for name, value in values(b, 0.5 * b, 1.5 * b, layers={"net": b}).items():
            row[name.replace("noise_scale/", f"noise_scale/{optimizer}/")] = value
    first, second = find_courses([write_run(tmp_path / "gan", {0: row, 1: row})])
    assert first.title == f"{tmp_path / 'gan'}, Adam"
    assert [first.moments[1].b, second.moments[1].b] == [64.0, 512.0]
    assert second.layers == {"net": {0: 512.0, 1: 512.0}}
    assert answer_of(second).lines[0].startswith("Adam-1: Your batch size of 32 is about 16")


def test_a_layer_called_trace_is_no_optimizer():
    found = course({0: values(layers={"trace": 5.0, "b.10": 1.0, "b.9": 1.0})})
    assert list(found.layers) == ["b.9", "b.10", "trace"]


def test_what_a_resumed_run_logged_anew_replaces_the_values_before(tmp_path):
    """It was resumed from step 15: the resolved value at step 20 never was one of this run."""
    points = []
    for step, b, second in ((10, 100.0, 1.0), (20, 300.0, 2.0), (16, None, 9.0), (20, None, 10.0)):
        if b is not None:
            points += [("b_simple", step, b, second), ("b_simple_high", step, 2 * b, second)]
        points += [("b_simple_low", step, 50.0, second), ("trace", step, 1.0, second)]
    (found,) = find_courses([write_events(tmp_path / "run", points)])
    assert [(one.step, one.b) for one in found.moments] == [(10, 100.0), (16, None), (20, None)]
    assert found.times == [1.0, 9.0, 10.0]


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,noise_scale/trace\n9,320.0\n19,325.0\n29,33")
    (found,) = find_courses([tmp_path])
    assert [moment.step for moment in found.moments] == [9, 19]


def test_what_else_was_logged_is_named():
    row = {**values(), "noise_scale/b_optimizer": 3.0, "noise_scale/temperature": 1.0}
    assert course({0: row}).others == ["noise_scale/b_optimizer"]


# ---- advice ----------------------------------------------------------------------------------


def test_the_advice_is_that_of_the_last_value_in_the_words_of_the_verdict():
    words = Context("160 [108, 250]", rate_exponent=None)
    found = answer_of(course(ROWS))
    assert found.lines == advice_lines(advise(32, 160, 108, 250), words)
    assert found.lines[1] == (
        "Raising it to 128 would need about 62 % [58, 66] fewer steps for about 50 % [34, 69] more "
        "examples."
    )


def test_after_a_decayed_schedule_the_advice_is_that_of_the_high_learning_rate():
    rows = {0: values(), 1: values(), 2: values(9000.0, 8000.0, 9999.0, rate=0.001)}
    found = answer_of(course(rows))
    assert found.basis[:5] == (32.0, 160.0, 108.0, 250.0, 1)
    assert "while the learning rate was at least a third of its peak, 160 [108" in found.lines[0]


def test_the_factor_of_an_adaptive_batch_size_is_no_schedule():
    """The rate fell to a fifth because the batch did: the schedule stayed as it was."""
    rows = {}
    for step, factor in enumerate((1.0, 1.0, 0.2)):
        rows[step] = values(rate=0.125 * factor)
        rows[step]["noise_scale/learning_rate_factor"] = factor
    found = course(rows)
    assert not found.trajectory.has_decayed
    assert found.rates[2] == pytest.approx(0.025)


def test_an_unresolved_end_gives_a_bound_and_no_advice():
    found = answer_of(course({9: values(), 19: unresolved(20.0)}))
    assert found.advice.situation is Situation.UNDETERMINED
    assert found.lines == [
        "Whether your batch size of 32 is right cannot be determined: the noise scale is not "
        "resolved but at least 20 examples."
    ]


def verdict(data_size):
    """That of a run with a noise scale of 96 [90, 103] examples."""
    average = RunningAverage(0.99)
    for i in range(40):
        trace, grad_sq = 96 * (1 + 0.1 * (-1) ** i), 1 + 0.1 * (-1) ** (i // 2)
        average.update(Moments(grad_sq + trace / 8, grad_sq + trace / 32, 1 / 8, 1 / 32))
    estimate = estimate_from(average, data_size=data_size)
    trajectory = Trajectory()
    trajectory.add(estimate, rate=0.125)
    found = Verdict(
        estimate, average, trajectory, "examples", "…", 32.0, 0.125, data_size, skipped={}
    )
    return str(found)


def test_where_the_logged_verdict_gives_no_advice_there_is_none_here():
    """The size of the data set is not among the scalars, and the verdict knows it."""
    found = course(ROWS, verdict=verdict(data_size=100))
    answer = answer_of(found)
    assert answer.advice.change is None
    assert answer.lines[0].startswith("Whether your batch size of 32 is right cannot")
    assert "is of the order of the data set (100 examples)" in answer.lines[1]
    assert len(answer.lines) == 2
    assert "is of the order of the data set" in health_of(found).logged_warnings[0]


def test_a_logged_verdict_with_advice_changes_nothing():
    found = answer_of(course(ROWS, verdict=verdict(data_size=None)))
    assert found == answer_of(course(ROWS))


def test_a_verdict_of_an_earlier_epoch_does_not_withhold_advice():
    found = course(ROWS)
    early = LoggedText(19, "Whether your batch size of 32 is right cannot be determined: …")
    assert answer_of(found._replace(verdict=early)).advice.change.size == 128


def test_without_a_batch_size_there_is_no_advice():
    found = answer_of(course({0: values(size=None)}))
    assert (found.basis, found.lines) == (
        None,
        ["The log holds no batch size, so there is no advice."],
    )


# ---- costs -----------------------------------------------------------------------------------


def test_steps_and_examples_follow_from_the_noise_scale_and_its_interval():
    costs = costs_of(Basis(32.0, 160.0, 108.0, 250.0, None, 0.1), None)
    assert [cost.size for cost in costs] == [8, 16, 32, 64, 128, 256, 512]
    used = costs[2]
    assert used.in_use
    assert used.steps == pytest.approx((1 + 160 / 32, 1 + 108 / 32, 1 + 250 / 32))
    assert used.examples == pytest.approx((1 + 32 / 160, 1 + 32 / 250, 1 + 32 / 108))
    assert costs[4].gain == pytest.approx((1 + 160 / 32) / (1 + 160 / 128))
    assert used.hours_alike is None


def test_hours_are_those_of_the_run_times_the_change_in_steps_or_examples():
    basis = Basis(32.0, 160.0, 108.0, 250.0, None, 0.1)
    costs = costs_of(basis, Span(100, 3.0, 0, False))
    four = costs[4]
    assert four.hours_alike.value == pytest.approx(3 * (1 + 160 / 128) / (1 + 160 / 32))
    assert four.hours_in_proportion.value == pytest.approx(3 * (1 + 128 / 160) / (1 + 32 / 160))
    low, high = (3 * (1 + 128 / b) / (1 + 32 / b) for b in (250, 108))
    assert four.hours_in_proportion[1:] == pytest.approx((low, high))
    assert costs[2].hours_alike == pytest.approx((3.0, 3.0, 3.0))


def test_a_bound_gives_bounds():
    costs = costs_of(Basis(6.0, None, 60.0, None, None, 0.1), Span(100, 3.0, 0, False))
    assert [cost.size for cost in costs] == [3, 6, 12, 24, 48, 96]  # no batch of one and a half
    assert costs[1].steps == Range(None, 11.0, None)
    assert costs[1].examples == Range(None, None, 1.1)
    assert costs[1].hours_alike is None
    assert costs_of(Basis(6.0, None, None, None, None, 0.1), None) == []


# ---- times -----------------------------------------------------------------------------------


def minutes(count, *, pause_at=None):
    clock, times = 0.0, []
    for place in range(count):
        clock += 60.0
        if place == pause_at:
            clock += 86400.0
        times.append(clock)
    return times


@pytest.mark.parametrize(("pause_at", "hours", "pauses"), [(None, 1.0, 0), (30, 59 / 60, 1)])
def test_the_hours_of_a_run_are_without_pauses(pause_at, hours, pauses):
    rows = {10 * place: values() for place in range(61)}
    found = span_of(course(rows, times=minutes(61, pause_at=pause_at)))
    assert found.hours == pytest.approx(hours)
    assert found[2:] == (pauses, False)
    assert found.steps == 600


def test_the_time_of_several_batch_sizes_is_that_of_none():
    rows = {0: values(), 10: values(size=64.0), 20: values(size=64.0)}
    assert span_of(course(rows, times=minutes(3))) == Span(20, None, 0, True)


def test_the_smaller_last_batch_of_an_epoch_does_not_count_as_a_change():
    rows = {0: values(), 10: values(size=29.0), 20: values()}
    assert span_of(course(rows, times=minutes(3))).hours == pytest.approx(2 / 60)


@pytest.mark.parametrize(("rows", "timed"), [({0: values()}, True), (ROWS, False)])
def test_without_two_times_there_are_no_hours(rows, timed):
    assert span_of(course(rows, timed=timed)) is None


# ---- health ----------------------------------------------------------------------------------


def test_the_health_counts_what_was_logged_and_what_was_resolved():
    rows = {step: values() for step in range(0, 120, 10)}
    rows[0] = unresolved()
    found = health_of(course(rows))
    assert (found.values, found.first, found.last, found.resolved) == (12, 0, 110, 11)
    assert found.width == 250 / 108
    assert found.share == 11 / 12
    assert found.warnings == []


def warned(rows):
    return " ".join(health_of(course(rows)).warnings)


def test_an_unresolved_end_few_values_and_a_wide_interval_are_warned_of():
    many = {step: values() for step in range(20)}
    assert "|G|² is not resolved from zero at the end" in warned({**many, 20: unresolved()})
    assert warned({0: values()}).startswith("Only 1 value of the noise scale in the log: train")
    assert "differ by a factor of 10. The interval is too wide" in warned(
        {**many, 20: values(160.0, 50.0, 500.0)}
    )
    none = {step: unresolved() for step in range(20, 60)}
    assert "Only 33 % of the logged values are resolved" in warned({**many, **none})
    assert "an interval needs five measured steps" in warned({**many, 20: unresolved(None)})
    assert "The learning rate has decayed" in warned({**many, 20: values(rate=0.001)})


def test_the_warnings_of_the_logged_verdict_are_kept():
    text = "Your batch size …\n  probe examples: …\n  warning: skipped 3 steps: not finite"
    assert health_of(course(ROWS, verdict=text)).logged_warnings == ["skipped 3 steps: not finite"]


def test_a_warning_of_the_logged_verdict_is_not_given_twice():
    text = f"Whether …\n  warning: {UNRESOLVED}; about 87 steps like these resolve it"
    rows = {step: values() for step in range(11)}
    rows[11] = unresolved()
    assert len(health_of(course(rows)).warnings) == 1
    assert health_of(course(rows, verdict=text)).warnings == []


def test_values_that_are_not_numbers_are_left_out(tmp_path):
    points = [("trace", 0, 1.0, 1.0), ("trace", 1, math.nan, 2.0)]
    (found,) = find_courses([write_events(tmp_path / "run", points)])
    assert [moment.step for moment in found.moments] == [0]
