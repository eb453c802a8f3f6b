"""The numbers behind the figures of the learning rate."""

import math

import pytest
from scipy.stats import linregress
from scipy.stats import t as student_t

from lightning_noise.report.curves import steps_curve
from lightning_noise.report.rates import rate_map, rate_rule
from testing.synthetic_studies import B_CRIT, EPS_MAX, SIZES, study


def test_every_trial_is_a_cell_and_a_column_has_no_gap():
    rows = study()
    found = rate_map(rows)
    assert found.sizes == SIZES
    for size in SIZES:
        cells = [cell for cell in found.cells if cell.global_size == size]
        here = [row for row in rows if row["global_size"] == size and row["phase"] == "search"]
        trials = sorted((row["learning_rate"], row) for row in here)
        assert [cell.learning_rate for cell in cells] == [rate for rate, _ in trials]
        assert [cell.status for cell in cells] == [row["status"] for _, row in trials]
        assert [a.high for a in cells[:-1]] == [b.low for b in cells[1:]]
        assert all(cell.low < cell.learning_rate < cell.high for cell in cells)
        (best,) = (cell for cell in cells if cell.best)
        assert best.excess == 1
        assert best.boundary is (size == SIZES[-1])
        for cell, (_, row) in zip(cells, trials, strict=True):
            assert (cell.excess is None) is (row["status"] != "reached")
    assert {cell.status for cell in found.cells} == {"reached", "incomplete", "diverged"}


def trial(rate, status="reached", steps=10.0, **more):
    steps = steps if status == "reached" else None
    row = {"goal": "g", "global_size": 8, "phase": "search", "best": False, "boundary": False}
    return row | {"learning_rate": rate, "status": status, "steps": steps} | more


def test_trials_of_one_rate_share_a_cell_and_the_best_of_them_speaks():
    rows = [
        trial(0.1, "diverged"),
        trial(0.1, steps=20.0),
        trial(0.1, "incomplete"),
        trial(0.4, steps=10.0),
        trial(0.1, steps=30.0),
    ]
    first, second = rate_map(rows).cells
    assert (first.status, first.excess, second.excess) == ("reached", 2, 1)
    assert (first.high, second.low) == pytest.approx((0.2, 0.2))
    (lone,) = rate_map([trial(0.1, "diverged"), trial(0.1, "incomplete")]).cells
    assert lone.status == "incomplete" and lone.low < 0.1 < lone.high


def test_a_pruned_trial_is_not_incomplete():
    rows = [
        trial(0.1, pruned=True),
        trial(0.2, "incomplete", pruned=True),
        trial(0.4, "incomplete", pruned=False),
        trial(0.8, "diverged", pruned=True),
        trial(0.8, "incomplete", pruned=True),
    ]
    statuses = [cell.status for cell in rate_map(rows).cells]
    assert statuses == ["reached", "pruned", "incomplete", "pruned"]


def test_trials_without_a_rate_are_no_part_of_the_map():
    assert len(rate_map([trial(None), trial(0.2)]).cells) == 1
    with pytest.raises(ValueError, match="no search trial with a learning rate"):
        rate_map([trial(None)])


def test_the_exponent_of_the_rule_is_found_with_its_interval():
    rows = study(trials=200)
    curve = steps_curve(rows)
    rule = rate_rule(rows, curve)
    assert rule.low < rule.alpha < rule.high
    assert abs(rule.alpha - 1) < 0.1
    assert abs(math.log(rule.eps_star / EPS_MAX)) < 0.2
    assert rule.b_star == curve.fit.b_crit
    inside = [point for point in rule.points if not point.boundary]
    x = [-math.log(1 + rule.b_star / point.global_size) for point in inside]
    oracle = linregress(x, [math.log(point.learning_rate) for point in inside])
    assert rule.alpha == pytest.approx(oracle.slope)
    assert rule.high - rule.alpha == pytest.approx(oracle.stderr * student_t.ppf(0.975, len(x) - 2))
    assert rule.rates[10] == pytest.approx(
        rule.eps_star / (1 + rule.b_star / rule.sizes[10]) ** rule.alpha,
    )


def test_an_exact_rule_is_found_exactly():
    rows = study()
    for row in rows:
        if row["best"]:
            row.update(boundary=False, learning_rate=0.7 / (1 + B_CRIT / row["global_size"]) ** 0.5)
    curve = steps_curve(rows)
    rule = rate_rule(rows, curve._replace(fit=curve.fit._replace(b_crit=B_CRIT)))
    assert (rule.alpha, rule.low, rule.high, rule.eps_star) == pytest.approx((0.5, 0.5, 0.5, 0.7))


def test_without_a_fit_it_is_the_slope():
    rows = study(sizes=(8, 16, 32))
    for row in rows:
        row["boundary"] = False
        if row["best"]:
            row["learning_rate"] = 0.01 * row["global_size"] ** 0.8
    curve = steps_curve(rows)
    assert curve.fit is None
    rule = rate_rule(rows, curve)
    assert rule.b_star is None
    assert (rule.alpha, rule.eps_star) == pytest.approx((0.8, 0.01))


def test_the_usual_rules_start_where_the_fit_does():
    rule = rate_rule(study(), steps_curve(study()))
    assert rule.linear[0] == rule.root[0] == rule.rates[0]
    ratio = rule.sizes[-1] / rule.sizes[0]
    assert (rule.linear[-1], rule.root[-1]) == pytest.approx(
        (rule.rates[0] * ratio, rule.rates[0] * math.sqrt(ratio)),
    )


def test_winners_on_the_edge_do_not_count():
    rows = study()
    edge = [row for row in rows if row["boundary"]]
    plain = rate_rule(rows, steps_curve(rows))
    edge[0]["learning_rate"] *= 100
    assert rate_rule(rows, steps_curve(rows)).alpha == plain.alpha
    for row in rows:
        row["boundary"] = row["best"] and row["global_size"] > 16
    alone = rate_rule(rows, steps_curve(rows))
    assert alone.alpha is None and len(alone.points) == len(SIZES)


def test_no_winner_is_refused():
    rows = [{**row, "best": False} for row in study()]
    with pytest.raises(ValueError, match="no trial with a learning rate is marked as best"):
        rate_rule(rows, steps_curve(rows))
