"""Budgets and variants: which seeds choose and which report, crossings, and fits."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks.atlas import findings_budgets as budgets
from benchmarks.atlas import findings_variants as variants
from benchmarks.gain.tasks import cross_entropy
from benchmarks.harness.command import run


def of_budget(losses):
    """Rows of one batch size; losses by (rate, seed)."""
    return [budgets.Row(8, rate, seed, "steps", 10, loss) for (rate, seed), loss in losses.items()]


def test_even_seeds_choose_the_rate_and_odd_seeds_report_its_loss():
    losses = {(0.1, 0): 1.0, (0.1, 2): 3.0, (0.1, 1): 6.0, (0.1, 3): 8.0}
    losses |= {(0.2, 0): 2.5, (0.2, 2): 2.5, (0.2, 1): 0.0, (0.2, 3): 0.0}
    found = budgets.best(of_budget(losses))
    assert found.learning_rate == 0.1
    assert found.loss.value == 7.0
    assert found.loss.high == pytest.approx(7 + 12.706 * 1, rel=1e-3)


def test_a_rate_that_diverges_for_one_seed_is_not_chosen():
    losses = {(0.1, 0): 5.0, (0.1, 2): 5.0, (0.1, 1): 5.0, (0.1, 3): 5.0}
    losses |= {(0.2, 0): 0.1, (0.2, 2): math.nan, (0.2, 1): 0.1, (0.2, 3): 0.1}
    assert budgets.best(of_budget(losses)).learning_rate == 0.1


def test_where_all_rates_diverge_there_is_a_dash():
    rows = of_budget({(0.1, 0): math.nan, (0.1, 1): math.nan})
    assert "| 8 | – |" in budgets.table(rows)


def test_budgets_of_examples_end_after_as_many_steps_as_they_pay_for():
    options = budgets.Options(steps=(30,), examples=(120, 240))
    assert budgets.budgets_of(8, options) == {
        30: [("steps", 30), ("examples", 240)],
        15: [("examples", 120)],
    }


def test_more_steps_at_the_same_rate_give_a_lower_loss():
    options = budgets.Options(
        sizes=(32,), rates=(0.05,), seeds=8, steps=(5, 40), examples=(64, 640)
    )
    rows = run(budgets.BENCHMARK, options)
    assert len(rows) == 4 * 8
    sizes = {key: best[32].loss for key, best in budgets.by_budget(rows).items()}
    assert sizes["steps", 40].high < sizes["steps", 5].low
    assert sizes["examples", 640].high < sizes["examples", 64].low


@pytest.mark.parametrize("module", [budgets, variants])
def test_tables_without_rows_have_no_lines(module):
    for table in module.BENCHMARK.tables.values():
        assert table([]).count("\n") <= 1


# ---- variants -----------------------------------------------------------------------------------


def made_up_steps(seed_factor=1.0):
    """S = 20 (1 + 40/B) at the rate 0.5, twice as many at 0.25."""
    rows = []
    for size, seed in product((4, 8, 16, 32, 64, 128, 256), range(4)):
        steps = 20 * (1 + 40 / size) * (seed_factor if seed % 2 else 1.0)
        rows.append(variants.Row("plain", size, 0.5, seed, steps))
        rows.append(variants.Row("plain", size, 0.25, seed, 2 * steps))
    return rows


def test_the_critical_batch_size_of_made_up_steps_is_found():
    fit = variants.fit_of(variants.curves(made_up_steps())["plain"])
    assert (fit.b_crit, fit.s_min, fit.e_min) == pytest.approx((40, 20, 800))
    assert "| plain | 4–256 (7) | 40 [" in variants.table(made_up_steps())


def test_steps_are_those_of_seeds_that_did_not_choose():
    rows = [row for row in made_up_steps(1.5) if row.global_size == 32]
    assert variants.steps_of(rows) == pytest.approx((0.5, 67.5))


def test_a_size_whose_seeds_do_not_all_reach_the_goal_is_absent():
    rows = []
    for row in made_up_steps():
        failed = row.global_size == 8 and row.seed == 1
        rows.append(row._replace(steps=math.nan) if failed else row)
    assert list(variants.curves(rows)["plain"]) == [4, 16, 32, 64, 128, 256]


def test_a_constant_rate_has_the_exponent_zero():
    table = variants.rate_table(made_up_steps())
    assert "| SGD | below B_crit | 4 in 1 studies | 0.00 [0.00, 0.00] |" in table


def test_crossings_lie_on_the_line_between_two_checks():
    crossings = variants.Crossings(3, 0.5)
    crossings.add(10, np.array([0.8, 0.6, 0.9]))
    crossings.add(20, np.array([0.4, 0.6, math.nan]))
    crossings.add(30, np.array([0.9, 0.1, math.nan]))
    assert crossings.steps.tolist() == pytest.approx([17.5, 22.0, math.inf])


def test_label_smoothing_is_that_of_torch():
    task = variants.task_of(variants.Variant(smoothing=0.1))
    p = task.split(torch.stack([task.initial(0), task.initial(1)]))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 6, 64, generator=generator)
    labels = torch.randint(10, (2, 6), generator=generator)
    logits = variants.logits_of(p, images)
    for lane, value in enumerate(task.loss(p, (images, labels)).tolist()):
        expected = torch.nn.functional.cross_entropy(
            logits[lane], labels[lane], label_smoothing=0.1
        )
        assert value == pytest.approx(expected.item(), rel=1e-5)
    plain = variants.task_of(variants.Variant()).loss(p, (images, labels))
    assert plain.tolist() == pytest.approx(cross_entropy(logits, labels).tolist())


@pytest.mark.parametrize("module", [budgets, variants])
def test_figures_are_drawn(module, tmp_path):
    rows = made_up_steps()
    if module is budgets:
        rows = []
        for unit, seed in product(("steps", "examples"), range(4)):
            rows.append(budgets.Row(8, 0.1, seed, unit, 10, 1.0 + 0.1 * seed))
    module.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
