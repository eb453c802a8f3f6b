"""Which statistic predicts best, on made-up tasks with known answers."""

import math

import pytest

from benchmarks.atlas import prediction
from benchmarks.atlas.prediction import Point

TWO_KINDS = ((1.0, "SGD", 1), (2.0, "SGD", 1), (3.0, "Adam", 4), (4.0, "Adam", 4))
B_CRITS = (10.0, 40.0, 90.0, 300.0, 2000.0)


def points(**statistics):
    """Tasks whose statistics are these factors times B_crit."""
    found = []
    for number, b_crit in enumerate(B_CRITS):
        values = {name: factors[number] * b_crit for name, factors in statistics.items()}
        found.append(Point(f"task {number}", "SGD", b_crit, values))
    return found


def test_the_error_of_a_constant_factor_is_its_logarithm():
    score = prediction.scored(
        points(a=[2.0] * 5), lambda known: prediction.direct_errors(known, "a")
    )
    assert score == pytest.approx((math.log(2),) * 3)
    assert score.factor == pytest.approx(2)


def test_a_factor_of_the_other_tasks_removes_a_constant_one():
    found = prediction.left_out_errors(points(a=[2.0] * 5), ["a"])
    assert found == pytest.approx([0.0] * 5, abs=1e-12)


def test_the_factor_is_not_chosen_on_the_task_that_it_is_judged_on():
    found = prediction.left_out_errors(points(a=[1, 1, 1, 1, math.e]), ["a"])
    assert found == pytest.approx([-0.25] * 4 + [1.0])


def test_the_statistic_with_the_least_scatter_is_chosen():
    known = points(near=[0.5, 2, 0.5, 2, 1], constant=[30.0] * 5)
    assert prediction.best_of(known, ["near", "constant"]) == (
        "constant",
        pytest.approx(math.log(30)),
    )
    assert prediction.left_out_errors(known, ["near", "constant"]) == pytest.approx(
        [0.0] * 5, abs=1e-12
    )


def test_goals_of_one_task_are_left_out_together():
    known = [
        Point("a", "SGD", 1.0, {"x": 8.0}),
        Point("a", "SGD", 1.0, {"x": 8.0}),
        Point("b", "SGD", 1.0, {"x": 1.0}),
    ]
    assert prediction.left_out_errors(known, ["x"]) == pytest.approx(
        [math.log(8), math.log(8), -math.log(8)]
    )


def test_a_factor_by_kind_is_that_of_other_tasks_of_the_kind():
    known = [Point(str(b), kind, b, {"x": b * factor}) for b, kind, factor in TWO_KINDS]
    assert prediction.left_out_by_kind(known, "x") == pytest.approx([0.0] * 4, abs=1e-12)
    alone = [*known, Point("5", "RMSprop", 5.0, {"x": 5.0})]
    assert prediction.left_out_by_kind(alone, "x")[-1] == pytest.approx(-math.log(2))


def test_the_guess_without_measuring_is_the_mean_of_the_others():
    known = [
        Point("a", "SGD", 1.0, {}),
        Point("b", "SGD", math.e**2, {}),
        Point("c", "SGD", math.e**4, {}),
    ]
    assert prediction.left_out_constant(known) == pytest.approx([3, 0, -3])


def test_a_difference_is_that_of_the_same_tasks():
    known = points(good=[1.0] * 5, bad=[math.e] * 5)
    gap = prediction.difference(
        known,
        lambda found: prediction.direct_errors(found, "good"),
        lambda found: prediction.direct_errors(found, "bad"),
    )
    assert gap == pytest.approx((-1, -1, -1))


def test_the_interval_over_tasks_covers_the_spread():
    values = [[1.0], [2.0], [3.0], [4.0]]
    low, high = prediction.interval(values, lambda drawn: sum(drawn) / len(drawn))
    assert low == pytest.approx(1.5, abs=0.26) and high == pytest.approx(3.5, abs=0.26)


def test_rank_correlation_sees_order_alone():
    same = points(a=[1.0] * 5)
    assert prediction.rank_correlation(same, "a") == pytest.approx(1)
    turned = [Point(p.group, p.kind, p.b_crit, {"a": 1 / p.b_crit}) for p in same]
    assert prediction.rank_correlation(turned, "a") == pytest.approx(-1)
