"""Temperature, growth, models: exponents of made-up rows are found, and empty tables are safe."""

import math
from itertools import product

import pytest
import torch

from benchmarks.atlas import (
    findings_data,
    findings_depth,
    findings_growth,
    findings_models,
    findings_temperature,
    findings_width,
)
from benchmarks.atlas.findings_descent import Row, level_of
from benchmarks.atlas.findings_tasks import digits_mlp, flat_digits, logits_of
from benchmarks.harness.command import run

SEEDS = range(8)
RATES, SIZES, WIDTHS = (0.04, 0.16, 0.64), (8, 32, 128), (16, 64, 256)


OF_MODELS = {
    "width": (findings_width, findings_width.WIDTH),
    "depth": (findings_depth, findings_depth.DEPTH),
    "trained": (findings_data, findings_data.TRAINED),
}


def row(seed, b_simple, *, task="digits MLP", rate=0.1, size=32, level=0.5, **varied):
    """A row whose |G|² scatters by 1 % from seed to seed, the same in all settings."""
    return Row(
        task=task,
        learning_rate=rate,
        global_size=size,
        seed=seed,
        level=level,
        first_step=1,
        checks=4,
        loss=level,
        grad_sq=1.0 + 0.01 * (seed - 3.5),
        trace=b_simple,
        **{"width": None, **varied},
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


@pytest.mark.parametrize("name", OF_MODELS)
def test_the_exponent_of_width_depth_and_data(name):
    module, varied = OF_MODELS[name]
    rows = []
    for value, seed in product(WIDTHS, SEEDS):
        rows.append(row(seed, value**0.5, **{name: value}))
    slope = findings_models.power(findings_models.by_value(rows, 0.1, varied))
    assert slope.value == pytest.approx(0.5)
    assert slope.low <= 0.5 + 1e-9 and slope.high >= 0.5 - 1e-9
    (table,) = module.BENCHMARK.tables.values()
    assert "| 8 [7.84, 8.17] | 16 [15.7, 16.3] | 0.50 [0.50, 0.50] |" in table(rows)


MODULES = [findings_temperature, findings_growth, findings_width, findings_depth, findings_data]


@pytest.mark.parametrize("module", MODULES)
def test_tables_without_rows_are_empty(module):
    for table in module.BENCHMARK.tables.values():
        assert table([]).count("\n") == 1


@pytest.mark.parametrize("module", MODULES)
def test_figures_are_drawn_from_rows_of_one_level(module, tmp_path):
    rows = [row(seed, 10.0, width=64, depth=2, trained=450) for seed in SEEDS]
    module.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_model_of_three_hidden_layers_is_that_of_torch():
    task = digits_mlp(16, depth=3)
    p = task.split(torch.stack([task.initial(0), task.initial(1)]))
    images = torch.rand(2, 5, 64, generator=torch.Generator().manual_seed(0))
    for lane, found in enumerate(logits_of(p, images)):
        hidden = images[lane]
        for weight, bias in zip(p[:-2:2], p[1:-2:2], strict=True):
            hidden = torch.relu(hidden @ weight[lane] + bias[lane])
        torch.testing.assert_close(found, hidden @ p[-2][lane] + p[-1][lane])
    assert [tuple(part.shape[1:]) for part in p[::2]] == [(64, 16), (16, 16), (16, 16), (16, 10)]


def test_depth_does_not_change_the_size_of_logits_at_the_start():
    """Mean over 64 seeds of their mean square; each of 8 layers halved it without √2."""
    squares = []
    for depth in (1, 8):
        task = digits_mlp(64, depth)
        weights = torch.stack([task.initial(seed) for seed in range(64)])
        images = flat_digits()[0][:64].expand(64, 64, 64)
        squares.append(logits_of(task.split(weights), images).square().mean((1, 2)))
    shallow, deep = squares
    error = (shallow.var() / 64 + deep.var() / 64) ** 0.5
    assert abs(shallow.mean() - deep.mean()) < 4 * error


def test_one_hidden_layer_starts_as_before():
    """The MLP of the rows that were measured before there were deeper ones."""
    first = digits_mlp(16).initial(3)
    generator = torch.Generator().manual_seed(3)
    into = torch.randn(64, 16, generator=generator) / 8
    out = torch.randn(16, 10, generator=generator) / 4
    expected = torch.cat([into.flatten(), torch.zeros(16), out.flatten(), torch.zeros(10)])
    assert torch.equal(first, expected)


def test_a_subset_is_trained_and_measured_on_itself():
    setting = findings_data.setting_of(112, 0.2, findings_data.Options())
    drawn, _ = setting.task.draw(torch.Generator().manual_seed(0), 5000)
    assert len(torch.unique(drawn, dim=0)) == len(torch.unique(setting.held[0], dim=0)) == 112
    subset = {tuple(one) for one in setting.held[0].tolist()}
    assert {tuple(one) for one in drawn.tolist()} == subset


def test_deeper_models_have_rows_of_their_depth():
    options = findings_depth.Options(depths=(1, 3), rates=(0.2,), seeds=2, lowest=2.0)
    rows = run(findings_depth.BENCHMARK, options)
    assert {one.depth for one in rows} == {1, 3} and {one.width for one in rows} == {None}


def test_a_noise_scale_that_is_not_defined_makes_no_slope():
    rows = [row(seed, -1.0) for seed in SEEDS]
    assert math.isnan(findings_temperature.temperature_slope(rows, set(SEEDS)))
