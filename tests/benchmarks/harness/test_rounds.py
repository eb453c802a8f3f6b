"""Comparisons within rounds against values by hand, and the rule that leaves rounds out."""

import math
import time

import pytest

from benchmarks.harness.rounds import (
    Stopwatch,
    Times,
    Visit,
    compare,
    disturbed,
    median_interval,
    median_of,
    one_round,
    shuffled,
    visit,
)


def visits(*rounds):
    """Visits of "plain" and "other" from (seconds, CPU seconds) of each, round by round."""
    return [
        Visit(number, place, name, *times)
        for number, pair in enumerate(rounds)
        for place, (name, times) in enumerate(zip(("plain", "other"), pair, strict=True))
    ]


def test_the_interval_of_a_median_is_the_binomial_one():
    # For n = 40 the textbook gives the 14th and the 27th of the ordered values (confidence 0.9615).
    assert median_interval(list(range(1, 41))[::-1]) == (14, 27)
    assert median_interval([3.0, 1.0]) == (1.0, 3.0)


def test_ratios_are_taken_within_a_round():
    rows = visits(((1.0, 1.0), (1.5, 1.5)), ((10.0, 10.0), (11.0, 11.0)))
    found = compare(rows, "other", "plain")
    assert found.ratio == found.cpu_ratio == pytest.approx((1.3, 1.1, 1.5))
    assert (found.rounds, found.kept, found.seconds) == (2, 2, 6.25)
    assert found.cpu_added == pytest.approx(0.75)


def test_a_round_in_which_another_process_took_the_core_counts_by_its_cpu_time_alone():
    calm, busy = ((1.0, 1.0), (1.1, 1.1)), ((1.0, 1.0), (3.0, 1.3))
    rows = visits(calm, busy, calm)
    assert disturbed(rows) == {1}
    found = compare(rows, "other", "plain")
    assert (found.rounds, found.kept, found.rounds_cell) == (3, 2, "2 of 3")
    assert found.ratio == pytest.approx((1.1, 1.1, 1.1))
    assert found.cpu_ratio == pytest.approx((1.1, 1.1, 1.3))


@pytest.mark.parametrize(("share", "left_out"), [(0.951, set()), (0.949, {1})])
def test_a_visit_may_lack_five_percent_of_its_best_share(share, left_out):
    calm = ((1.0, 1.8), (1.0, 1.8))  # two threads
    assert disturbed(visits(calm, ((1.0, 1.8 * share), (1.0, 1.8)))) == left_out


def test_where_every_round_is_disturbed_no_ratio_of_the_wall_is_left():
    rows = visits(((1.0, 1.0), (2.0, 1.0)), ((2.0, 1.0), (1.0, 1.0)))
    found = compare(rows, "other", "plain")
    assert found.kept == 0 and math.isnan(found.ratio.median)
    assert found.cpu_ratio == (1.0, 1.0, 1.0)


def test_of_fewer_than_six_undisturbed_rounds_no_ratio_of_the_wall_is_shown():
    calm = ((1.0, 1.0), (1.25, 1.25))
    five, six = (compare(visits(*[calm] * n), "other", "plain") for n in (5, 6))
    assert (five.ratio_cell(), six.ratio_cell()) == ("–", "1.250 [1.250, 1.250]")
    assert five.cpu_ratio_cell() == "1.250 [1.250, 1.250]"


def test_visits_without_numbers_are_left_out():
    rows = visits(((1.0, 1.0), (math.nan, math.nan)), ((1.0, 1.0), (2.0, 2.0)))
    assert compare(rows, "other", "plain").rounds == 1
    assert all(map(math.isnan, median_of([])))


def test_the_order_of_a_round_does_not_depend_on_the_rounds_before():
    names = list("abcdef")
    orders = [shuffled(names, number) for number in range(20)]
    assert orders[7] == shuffled(names, 7) and len({tuple(order) for order in orders}) > 15
    assert all(sorted(order) == names for order in orders)


def test_the_stopwatch_counts_what_it_runs_and_nothing_else():
    watch = Stopwatch()
    total = 0
    with watch.running(weight=0.5):
        total += sum(range(200_000))
    assert total == 19_999_900_000
    times = watch.per_step(1)
    sum(range(2_000_000))
    assert watch.per_step(1) == times and times.cpu_seconds > 0
    assert times.load == watch.load


def test_a_visit_times_all_steps_but_the_first():
    called = []

    def step():
        called.append("step")

    def ready():
        called.append("ready")

    times = visit(step, (0.1, 0.9), ready=ready)
    assert called == ["step", "ready", "step", "ready", "step"]
    assert 0 < times.seconds < 0.01


def test_what_is_not_ready_is_not_timed():
    waited = visit(lambda: None, ready=lambda: time.sleep(0.05))
    assert waited.seconds < 0.04


def test_a_round_visits_every_variant_once_in_its_own_order():
    variants = {name: lambda name=name: Times(ord(name), 0.5, 0.0) for name in "abc"}
    rows = one_round(3, variants)
    assert [row.variant for row in rows] == shuffled("abc", 3)
    assert [(row.round, row.place) for row in rows] == [(3, 0), (3, 1), (3, 2)]
    assert all(row.seconds == ord(row.variant) for row in rows)
