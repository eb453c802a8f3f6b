"""Temperature, growth and width: exponents of made-up rows are found, and empty tables are safe."""

import math
from itertools import product

import pytest

from benchmarks.atlas import findings_growth, findings_temperature, findings_width
from benchmarks.atlas.findings_descent import Row, level_of

SEEDS = range(8)
RATES, SIZES, WIDTHS = (0.04, 0.16, 0.64), (8, 32, 128), (16, 64, 256)


def row(seed, b_simple, *, task="digits MLP", width=None, rate=0.1, size=32, level=0.5):
    """A row whose |G|² scatters by 1 % from seed to seed, the same in all settings."""
    return Row(
        task=task,
        width=width,
        learning_rate=rate,
        global_size=size,
        seed=seed,
        level=level,
        first_step=1,
        checks=4,
        loss=level,
        grad_sq=1.0 + 0.01 * (seed - 3.5),
        trace=b_simple,
    )


def hot(rate_power, size_power):
    found = []
    for rate, size, seed in product(RATES, SIZES, SEEDS):
        found.append(row(seed, 100 * rate**rate_power * size**size_power, rate=rate, size=size))
    return found


def test_the_exponents_of_rate_and_size_are_found():
    temperature, rate, size, together = findings_temperature.bounded_exponents(hot(-0.8, 0.5))
    assert (rate.value, size.value) == pytest.approx((-0.8, 0.5))
    assert together.value == pytest.approx(-0.3)
    assert -0.8 < temperature.value < -0.5


def test_where_only_the_temperature_matters_the_sum_is_zero():
    temperature, _, _, together = findings_temperature.bounded_exponents(hot(-1, 1))
    assert temperature.value == pytest.approx(-1)
    assert together.value == pytest.approx(0, abs=1e-9)


def test_the_temperature_tables_have_every_setting():
    rows = hot(-1, 1)
    assert "| 0.5 | all | -1.00 [-1.00, -1.00] |" in findings_temperature.table(rows)
    assert findings_temperature.values_table(rows).count("\n") == 10


def test_growth_and_exponent_of_the_loss():
    """B_simple = 8/loss over three octaves: it grows by eight."""
    rows = []
    for number, seed in product(range(7), SEEDS):
        rows.append(row(seed, 8 / level_of(number), level=level_of(number)))
    levels = findings_growth.by_level(rows, "digits MLP")
    first, *_, last = levels.values()
    assert findings_growth.growth(first, last) == pytest.approx((8, 8, 8))
    assert findings_growth.loss_slope(levels).value == pytest.approx(1)
    assert "| 1 → 0.125 |" in findings_growth.table(rows)


def test_a_bin_that_one_seed_has_not_been_in_is_left_out():
    rows = [row(seed, 1.0) for seed in SEEDS] + [row(0, 1.0, level=0.25)]
    assert list(findings_growth.by_level(rows, "digits MLP")) == [0.5]
    assert findings_growth.table(rows).count("\n") == 1


def test_the_exponent_of_the_width():
    rows = []
    for width, seed in product(WIDTHS, SEEDS):
        rows.append(row(seed, width**0.5, width=width))
    slope = findings_width.width_slope(findings_width.by_width(rows, 0.1))
    assert slope.value == pytest.approx(0.5)
    assert slope.low <= 0.5 + 1e-9 and slope.high >= 0.5 - 1e-9
    assert "0.50 [0.50, 0.50]" in findings_width.table(rows)


@pytest.mark.parametrize("module", [findings_temperature, findings_growth, findings_width])
def test_tables_without_rows_are_empty(module):
    for table in module.BENCHMARK.tables.values():
        assert table([]).count("\n") == 1


@pytest.mark.parametrize("module", [findings_temperature, findings_width, findings_growth])
def test_figures_are_drawn_from_rows_of_one_level(module, tmp_path):
    rows = [row(seed, 10.0, width=64) for seed in SEEDS]
    module.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_noise_scale_that_is_not_defined_makes_no_slope():
    rows = [row(seed, -1.0) for seed in SEEDS]
    assert math.isnan(findings_temperature.temperature_slope(rows, set(SEEDS)))
