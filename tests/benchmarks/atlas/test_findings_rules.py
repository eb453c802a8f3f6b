"""Rules for the learning rate: exponents of made-up best rates, and rows of a made-up study."""

import csv
import math

import pytest

from benchmarks.atlas import findings_rules as rules
from benchmarks.atlas.findings_rules import Row

COLUMNS = (
    *("task", "goal", "global_size", "seed", "trial", "phase", "learning_rate", "status"),
    *("steps", "examples", "best_value", "mode", "metric", "target", "boundary", "best"),
    *("pruned", "budget_steps", "trained_steps"),
)
SIZES = [2**k for k in range(2, 12)]


def made_up(task, power, b_crit=100.0, scale=1.0):
    """Best rates that follow eq. 2.6 exactly, with B_crit and a power."""
    kind = rules.kind_of(task)
    rows = []
    for size in SIZES:
        rate = scale * (1 + b_crit / size) ** -power
        rows.append(Row(task, kind, size, rate, b_crit))
    return rows


ROWS = [
    *made_up("digits_mlp_sgd", 1.0),
    *made_up("patches_ae_momentum", 1.0, 500.0, 3.0),
    *made_up("digits_mlp_adam", 0.5),
]


def test_a_power_of_the_batch_size_is_found_for_tasks_of_different_scales():
    rows = []
    for task, scale in (("a_adam", 1.0), ("b_adam", 7.0)):
        rows += [Row(task, "Adam", size, scale * size**0.4, 100.0) for size in SIZES]
    found = rules.exponent(rows, lambda row: row.learning_rate)
    assert found == pytest.approx((0.4, 0.4, 0.4))


def test_the_interval_is_students_of_the_slope():
    """ln rate = 0, 1, 0 at ln B = −1, 0, 1: slope 0, residual variance 2/3 with one degree."""
    rows = []
    for x, y in ((-1, 0), (0, 1), (1, 0)):
        rows.append(Row("a_sgd", "SGD", math.exp(x), math.exp(y), 1.0))
    found = rules.exponent(rows, lambda row: row.learning_rate)
    half = 12.706 * (2 / 3 / 2) ** 0.5
    assert found == pytest.approx((0, -half, half), rel=1e-3, abs=1e-9)


def test_the_right_rule_has_the_factor_one():
    adam = rules.fitted(ROWS, "Adam")
    assert rules.typical_factor(adam, rules.RULES["eq. 2.6, α = 1/2"]) == pytest.approx(1)
    assert rules.typical_factor(adam, rules.RULES["linear"]) > 2
    sgd = rules.fitted(ROWS, "SGD")
    assert rules.typical_factor(sgd, rules.RULES["eq. 2.6, α = 1"]) == pytest.approx(1)


def test_rates_of_the_model_have_its_exponents_on_both_sides_of_b_crit():
    rows = rules.fitted(ROWS, "SGD with momentum")
    for side in (lambda row: row.global_size <= 500, lambda row: row.global_size > 500):
        part = [row for row in rows if side(row)]
        measured = rules.exponent(part, lambda row: row.learning_rate)
        assert measured.value == pytest.approx(rules.exponent(part, rules.expected_rate).value)


def test_tables_have_both_sides_of_every_kind():
    table = rules.exponent_table(ROWS)
    assert "| SGD | below B_crit | 5 in 1 studies |" in table
    assert table.count("\n") == 7
    assert "| Adam | 10 | " in rules.rule_table(ROWS)


@pytest.mark.parametrize("rows", [[], [ROWS[0]._replace(b_crit=math.nan)]], ids=["none", "no fit"])
def test_without_a_b_crit_there_is_no_table(rows):
    for table in rules.BENCHMARK.tables.values():
        assert table(rows) == "No task has a B_crit."


def test_one_rate_has_no_exponent_and_a_dash():
    assert "| SGD | below B_crit | 1 in 1 studies | – | – |" in rules.exponent_table(ROWS[:1])
    assert "| SGD | 1 | – | – | – | – | – |" in rules.rule_table(ROWS[:1])


def test_best_rates_are_read_from_the_table_of_a_study(tmp_path):
    """Two tasks; S = 50 (1 + 64/B) with the best rate B/1000, and another goal."""
    path = tmp_path / "study.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for task in ("one_sgd", "two_adam"):
            for size in (8, 16, 32, 64, 128, 256, 512):
                steps = 50 * (1 + 64 / size)
                for goal, rate in (("late", size / 1000), ("early", 9.0)):
                    for phase, seed in (("search", 0), ("rerun", 1), ("rerun", 2)):
                        start = [task, goal, size, seed, 0, phase, rate, "reached", steps]
                        end = [steps * size, 0.1, "min", "val_loss", 0.2, False]
                        writer.writerow([*start, *end, phase == "search", False, 900, 900])
    groups = list(rules.measure(rules.Options(study=str(path)), {("one_sgd",): []}))
    assert len(groups) == 1
    assert [row.global_size for row in groups[0]] == [8, 16, 32, 64, 128, 256, 512]
    assert [row.learning_rate for row in groups[0]] == [row.global_size / 1000 for row in groups[0]]
    assert {(row.task, row.kind) for row in groups[0]} == {("two_adam", "Adam")}
    assert groups[0][0].b_crit == pytest.approx(64)


def test_the_figure_has_a_panel_for_each_kind(tmp_path):
    rules.draw(ROWS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
