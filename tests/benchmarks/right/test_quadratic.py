"""The noisy-quadratic benchmark: its recursion against closed forms, the limit that theory gives,
and the table, run small.
"""

import csv
import math

import numpy as np
import pytest

from benchmarks.harness.command import main, run
from benchmarks.right import quadratic
from lightning_noise import CriticalBatchSize
from testing.quadratic import best_steps, steps_to_goal


def test_noise_scales_of_a_known_point():
    """h = c = (1, 1/2), E θ² = (1, 4): tr(HΣ) = 1.25, GᵀHG = 1.5, tr(Σ) = 1.5, |G|² = 2."""
    found = quadratic.moment(np.array([1.0, 0.5]), np.array([1.0, 4.0]))
    assert found == pytest.approx((1.25 / 1.5, 1.5 / 2))
    assert quadratic.greedy_rate(
        np.array([1.0, 0.5]), np.array([1.0, 4.0]), math.inf
    ) == pytest.approx(2 / 1.5)


@pytest.mark.parametrize("B", [5.0, 500.0])
def test_recursion_at_a_constant_rate_is_the_closed_form(B):
    curvature = quadratic.spectrum(10, 40)
    goal = curvature.sum() / 200
    rate = best_steps(B, goal, curvature).rate
    steps = quadratic.constant(curvature, 1.0, goal)(B).steps
    assert (
        abs(steps - steps_to_goal(B, rate, goal, curvature)) < 0.1
    )  # straight between whole steps, where the loss is convex
    assert quadratic.constant(curvature, 1.5, goal)(5.0).steps == math.inf


def test_the_greedy_rate_lowers_the_loss_most():
    curvature, square = quadratic.spectrum(100, 30), np.linspace(1, 0.2, 30)
    best = quadratic.greedy_rate(curvature, square, 20)

    def after(rate):
        return (curvature * ((1 - rate * curvature) ** 2 * square + rate**2 * curvature / 20)).sum()

    assert after(best) < min(after(1.01 * best), after(0.99 * best))


def test_small_steps_on_a_well_conditioned_loss_have_the_b_crit_of_theory():
    """κ = 1: B_noise = 1/E θ², and progress is ln of it, from 1 to 100: B_crit = ∫ B_noise ds / ∫
    ds = 99/ln 100.
    """
    row = quadratic.measure("greedy", 1, 0.01, 2)
    assert row.b_crit == pytest.approx(99 / math.log(100), rel=0.02)
    assert row.crit_to_progress == pytest.approx(1, abs=0.02)
    assert row.residual < 0.001


def test_greedy_steps_do_not_depend_on_which_side_of_the_best_rate():
    """At κ = 1 the gain of a step is 2r − r² times the best: r = 0.5 and 1.5 are alike."""
    low, high = (quadratic.measure("greedy", 1, ratio, 2) for ratio in (0.5, 1.5))
    assert low.b_crit == pytest.approx(high.b_crit, rel=1e-9)


def test_a_goal_out_of_reach_gives_no_b_crit():
    row = quadratic.measure("constant", 10, 1.5, 20)
    assert row.sizes == 0 and row.b_crit is None and row.crit_to_noise is None


def test_a_run_that_takes_too_long_does_not_end(monkeypatch):
    monkeypatch.setattr(quadratic, "MOST_STEPS", 5)
    assert quadratic.run(np.ones(2), 1e9, lambda square: 0.01, 1e-3).steps == math.inf


def test_table_and_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(quadratic, "RATIOS", (0.5, 1.5))
    options = quadratic.Options(dimensions=10, conditions=(10,))
    rows = run(quadratic.BENCHMARK, options, tmp_path / "t.csv")
    assert [(row.schedule, row.ratio) for row in rows] == [
        (s, r) for s in ("greedy", "constant") for r in (0.5, 1.5)
    ]
    greedy, constant = (table(rows) for table in quadratic.BENCHMARK.tables.values())
    low, high = (f"{row.crit_to_noise:#.2g}" for row in rows[:2])
    assert greedy.splitlines()[-1] == f"| κ = 10 | {low} | {high} |"
    assert constant.endswith("| – |")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["b_crit"] for row in read] == [
        "" if row.b_crit is None else f"{row.b_crit:.6g}" for row in rows
    ]


def test_brackets_are_for_runs_of_less_than_two_steps():
    row = quadratic.Row("greedy", 1, 1.0, 13, 100.0, 1.9, 0.1, crit_to_noise=2.41)
    assert quadratic.as_cell(row) == "(2.4)"
    assert quadratic.as_cell(row._replace(s_min=2.1, crit_to_noise=0.8)) == "0.80"
    assert quadratic.as_cell(row._replace(crit_to_noise=99.2)) == "(99)"


def test_the_hyperbola_through_the_best_constant_rates_is_that_of_the_docs():
    sizes = [2.0**k for k in range(3, 17)]
    fit = CriticalBatchSize.fit(sizes, [best_steps(size).steps for size in sizes])
    found = f"b_crit {fit.b_crit:.0f} [{fit.low:.0f}, {fit.high:.0f}], residual {fit.residual:.3f}"
    assert found == "b_crit 645 [584, 713], residual 0.062"


def test_dimensions_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        main(quadratic.BENCHMARK, ["--quick", "--dimensions", "0"])
    assert "--dimensions must be at least 1, got 0" in capsys.readouterr().err
