"""Budgets and variants: which seeds choose and which report, crossings, and fits."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks.atlas import findings_budgets as budgets
from benchmarks.atlas import findings_optimizers as optimizers
from benchmarks.atlas import findings_variants as variants
from benchmarks.atlas import variant_curves as curves
from benchmarks.atlas import variant_runs
from benchmarks.atlas.findings_tasks import logits_of
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


@pytest.mark.parametrize("module", [budgets, variants, optimizers])
def test_tables_without_rows_have_no_lines(module):
    for table in module.BENCHMARK.tables.values():
        assert table([]).count("\n") <= 1


# ---- variants -----------------------------------------------------------------------------------


def table(module, rows):
    """B_crit of some rows."""
    return curves.table(rows, module.VARIANTS)


def made_up_steps(seed_factor=1.0, name="plain", b_crit=40):
    """S = 20 (1 + B_crit/B) at the rate 0.5, twice as many at 0.25."""
    rows = []
    for size, seed in product((4, 8, 16, 32, 64, 128, 256), range(4)):
        steps = 20 * (1 + b_crit / size) * (seed_factor if seed % 2 else 1.0)
        rows.append(variant_runs.Row(name, size, 0.5, seed, steps))
        rows.append(variant_runs.Row(name, size, 0.25, seed, 2 * steps))
    return rows


def test_the_critical_batch_size_of_made_up_steps_is_found():
    fit = curves.fit_of(curves.curves(made_up_steps())["plain"])
    assert (fit.b_crit, fit.s_min, fit.e_min) == pytest.approx((40, 20, 800))
    assert "| plain | 4–256 (7) | 40 [" in table(variants, made_up_steps())


def noisy(rows, seed, scatter):
    """The same runs of all variants are slower or faster, at every batch size by itself."""
    source = np.random.default_rng(seed)
    factors: dict[tuple[int, int], float] = {}
    found = []
    for row in rows:
        key = (row.global_size, row.seed)
        factor = factors.setdefault(key, math.exp(scatter * source.standard_normal()))
        found.append(row._replace(steps=row.steps * factor))
    return found


def test_a_b_crit_relative_to_that_of_the_plain_run_is_found():
    rows = made_up_steps() + made_up_steps(name="width 16", b_crit=20)
    assert curves.ratios(rows, variants.VARIANTS) == {"width 16": pytest.approx((0.5, 0.5, 0.5))}
    line = "| width 16 | 4–256 (7) | 20 [20, 20] | 0.50 [0.50, 0.50] × plain | 20 |"
    assert line in table(variants, rows)


def test_with_label_smoothing_an_optimizer_is_compared_with_itself():
    rows = []
    for name, b_crit in {"SGD": 10, "Adam": 40, "Adam, smoothed": 80}.items():
        rows += made_up_steps(name=name, b_crit=b_crit)
    found = table(optimizers, rows)
    assert "| 4.00 [4.00, 4.00] × SGD |" in found
    assert "| 2.00 [2.00, 2.00] × Adam |" in found


def test_without_the_rows_that_it_is_compared_with_a_variant_has_no_relative_b_crit():
    assert "] | – | 20 | 800 |" in table(variants, made_up_steps(name="width 16"))


def test_what_seeds_share_cancels_in_a_relative_b_crit():
    """Scatter of 20 % that both share: the ratio of two equal variants is 1 without any error."""
    rows = noisy(made_up_steps() + made_up_steps(name="width 16"), 0, 0.2)
    assert curves.ratios(rows, variants.VARIANTS)["width 16"] == pytest.approx((1, 1, 1))


def test_scatter_of_its_own_widens_a_relative_b_crit():
    other = noisy(made_up_steps(name="width 16"), 1, 0.2)
    rows = noisy(made_up_steps(), 0, 0.2) + other
    found = curves.ratios(rows, variants.VARIANTS)["width 16"]
    assert found.low < 1 < found.high
    assert found.high > 1.2 * found.low


@pytest.mark.parametrize("name", optimizers.PLAIN)
def test_every_optimizer_has_rates_of_its_own(name):
    options = optimizers.Options(rates=(0.32,), seeds=4, goal=0.9, most_steps=60)
    rows = variant_runs.runs(name, optimizers.VARIANTS[name], 32, options)
    factor = {"SGD": 1.0, "momentum": 0.3, "Adam": 0.04}[name]
    assert [row.learning_rate for row in rows] == 4 * [0.32 * factor]
    assert all(math.isfinite(row.steps) for row in rows)


def test_rates_are_grouped_by_the_kind_of_optimizer():
    rows = made_up_steps(name="SGD") + made_up_steps(name="Adam, smoothed")
    kinds = {one.task: one.kind for one in curves.tuned(rows, optimizers.VARIANTS)}
    assert kinds == {"SGD": "SGD", "Adam, smoothed": "Adam"}


def test_steps_are_those_of_seeds_that_did_not_choose():
    rows = [row for row in made_up_steps(1.5) if row.global_size == 32]
    assert curves.steps_of(rows) == pytest.approx((0.5, 67.5))


def test_a_size_whose_seeds_do_not_all_reach_the_goal_is_absent():
    rows = []
    for row in made_up_steps():
        failed = row.global_size == 8 and row.seed == 1
        rows.append(row._replace(steps=math.nan) if failed else row)
    assert list(curves.curves(rows)["plain"]) == [4, 16, 32, 64, 128, 256]


def test_a_constant_rate_has_the_exponent_zero():
    table = curves.rate_table(made_up_steps(), variants.VARIANTS)
    assert "| SGD | below B_crit | 4 in 1 studies | 0.00 [0.00, 0.00] |" in table


def test_crossings_lie_on_the_line_between_two_checks():
    crossings = variant_runs.Crossings(3, 0.5)
    crossings.add(10, np.array([0.8, 0.6, 0.9]))
    crossings.add(20, np.array([0.4, 0.6, math.nan]))
    crossings.add(30, np.array([0.9, 0.1, math.nan]))
    assert crossings.steps.tolist() == pytest.approx([17.5, 22.0, math.inf])


def test_label_smoothing_is_that_of_torch():
    task = variant_runs.task_of(variant_runs.Variant(smoothing=0.1))
    p = task.split(torch.stack([task.initial(0), task.initial(1)]))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 6, 64, generator=generator)
    labels = torch.randint(10, (2, 6), generator=generator)
    logits = logits_of(p, images)
    for lane, value in enumerate(task.loss(p, (images, labels)).tolist()):
        expected = torch.nn.functional.cross_entropy(
            logits[lane], labels[lane], label_smoothing=0.1
        )
        assert value == pytest.approx(expected.item(), rel=1e-5)
    plain = variant_runs.task_of(variant_runs.Variant()).loss(p, (images, labels))
    assert plain.tolist() == pytest.approx(cross_entropy(logits, labels).tolist())


@pytest.mark.parametrize("module", [budgets, variants, optimizers])
def test_figures_are_drawn(module, tmp_path):
    rows = made_up_steps(name=next(iter(variants.VARIANTS)))
    if module is optimizers:
        rows = made_up_steps(name="SGD") + made_up_steps(name="SGD, smoothed")
    if module is budgets:
        rows = []
        for unit, seed in product(("steps", "examples"), range(4)):
            rows.append(budgets.Row(8, 0.1, seed, unit, 10, 1.0 + 0.1 * seed))
    module.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
