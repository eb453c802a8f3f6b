"""What the page of findings says in words of depth, data, optimizers and Pong holds in the rows."""

import pytest

from benchmarks.atlas import (
    findings_data,
    findings_depth,
    findings_models,
    findings_optimizers,
    findings_pong,
    findings_variants,
    variant_curves,
)
from benchmarks.atlas.findings_descent import at_level, b_simple
from benchmarks.harness.rows import committed


def at(module, varied, rate, level):
    """B_simple by depth or size of the data set."""
    rows = at_level(committed(module.BENCHMARK), level)
    found = findings_models.by_value(rows, rate, varied)
    return {value: b_simple(mine) for value, mine in found.items()}


def of_depth(rate, level):
    return at(findings_depth, findings_depth.DEPTH, rate, level)


def test_eight_layers_have_a_fourteenth_of_the_noise_scale_of_one():
    coldest = of_depth(0.0125, 0.25)
    assert coldest[1].value / coldest[8].value == pytest.approx(14.3, abs=0.1)
    ratios = []
    for rate in (0.0125, 0.05, 0.2):
        for level in findings_models.LEVELS:
            found = of_depth(rate, level)
            ratios.append(found[1].value / found[8].value)
    assert max(ratios) == pytest.approx(14.3, abs=0.1)


def test_noise_scales_of_depths_lie_on_two_plateaus_at_loss_1():
    upper, lower = [], []
    for rate, deepest in ((0.0125, 4), (0.05, 2)):
        for depth, found in of_depth(rate, 1.0).items():
            (upper if depth <= deepest else lower).append(found.value)
    lower += [found.value for depth, found in of_depth(0.2, 1.0).items() if depth >= 2]
    assert (round(min(upper)), round(max(upper))) == (93, 132)
    assert (round(min(lower)), round(max(lower))) == (13, 25)


def test_the_size_of_the_data_set_matters_little():
    rows = committed(findings_data.BENCHMARK)
    powers, growths = [], []
    for rate in (0.05, 0.2):
        for level in findings_models.LEVELS:
            sizes = findings_models.by_value(at_level(rows, level), rate, findings_data.TRAINED)
            powers.append(findings_models.power(sizes))
            growths.append(b_simple(sizes[1797]).value / b_simple(sizes[112]).value)
    assert (round(min(powers).value, 2), round(max(powers).value, 2)) == (0.06, 0.22)
    assert sum(power.low > 0 for power in powers) == 5
    assert max(growths) == pytest.approx(1.8, abs=0.05)


def of_pong(rows):
    return {name: findings_pong.interval_of(group) for name, group in parts(rows)}


def parts(rows):
    return findings_pong.parts_of(rows).items()


def test_b_simple_of_pong_grows_tenfold_within_the_first_frames():
    rows = committed(findings_pong.BENCHMARK)
    found = of_pong(rows)
    assert found["other steps"].value / found["first fifth"].value == pytest.approx(10, abs=0.5)
    assert found["other steps"].low > found["first fifth"].high
    assert max(row.last_step * row.global_size for row in rows) == 204_800


def test_the_score_of_pong_does_not_rise():
    bins = findings_pong.by_bin(committed(findings_pong.BENCHMARK))
    scores = [findings_pong.mean_score(mine) for mine in bins.values()]
    first = next(score for score in scores if score is not None)
    assert (round(first, 1), round(scores[-1], 1)) == (-20.5, -20.4)


def test_two_runs_of_pong_agree_in_the_first_fifth_alone():
    rows = committed(findings_pong.BENCHMARK)
    one, other = (of_pong([row for row in rows if row.seed == seed]) for seed in (1001, 1002))
    assert other["first fifth"].low < one["first fifth"].value < other["first fifth"].high
    assert one["other steps"].high < other["other steps"].low


@pytest.fixture(scope="module")
def optimizers():
    return committed(findings_optimizers.BENCHMARK)


def test_momentum_and_adam_more_than_double_the_critical_batch_size(optimizers):
    found = variant_curves.ratios(optimizers, findings_optimizers.VARIANTS)
    assert rounded(found["momentum"]) == (2.2, 1.7, 2.9)
    assert rounded(found["Adam"]) == (2.4, 1.9, 3.1)


def test_label_smoothing_lowers_the_critical_batch_size_with_every_optimizer(optimizers):
    found = variant_curves.ratios(optimizers, findings_optimizers.VARIANTS)
    smoothed = [found[name] for name in findings_optimizers.SMOOTHED]
    assert [rounded(one, 2)[0] for one in smoothed] == [0.77, 0.62, 0.72]
    assert max(one.high for one in smoothed) < 1.005


def test_label_smoothing_saves_steps_at_small_batches_alone(optimizers):
    steps = variant_curves.curves(optimizers)
    at_8, of_steps, of_examples = [], [], []
    for name in findings_optimizers.PLAIN:
        before, after = steps[name], steps[f"{name}, smoothed"]
        at_8.append(1 - after[8] / before[8])
        plain, smoothed = variant_curves.fit_of(before), variant_curves.fit_of(after)
        of_steps.append(abs(1 - smoothed.s_min / plain.s_min))
        of_examples.append(1 - smoothed.e_min / plain.e_min)
    assert [round(min(at_8), 2), round(max(at_8), 2)] == [0.28, 0.36]
    assert max(of_steps) == pytest.approx(0.07, abs=0.005)
    assert [round(min(of_examples), 2), round(max(of_examples), 2)] == [0.25, 0.33]


def test_with_momentum_small_batches_take_as_many_steps_and_large_ones_less_than_half(optimizers):
    steps = variant_curves.curves(optimizers)
    for size in (4, 8, 16):
        assert steps["momentum"][size] == pytest.approx(steps["SGD"][size], rel=0.07)
    assert steps["momentum"][512] < 0.5 * steps["SGD"][512]


def test_four_variants_lower_the_critical_batch_size_and_three_do_not():
    rows = committed(findings_variants.BENCHMARK)
    found = variant_curves.ratios(rows, findings_variants.VARIANTS)
    lower = {name for name, one in found.items() if one.high < 1}
    quarter = "a quarter of the data"
    assert lower == {quarter, "label smoothing 0.1", "width 16", "4 hidden layers"}
    assert all(found[name].value == pytest.approx(0.7, abs=0.05) for name in lower)
    assert all(found[name].low < 1 for name in found) and len(found) == 7
    sizes = [variant_curves.fit_of(one).b_crit for one in variant_curves.curves(rows).values()]
    assert max(sizes) / min(sizes) == pytest.approx(1.51, abs=0.01)


def test_deeper_and_narrower_models_need_more_steps():
    steps = variant_curves.curves(committed(findings_variants.BENCHMARK))
    names = ("width 16", "plain", "width 256", "2 hidden layers", "4 hidden layers")
    least = [round(variant_curves.fit_of(steps[name]).s_min) for name in names]
    assert least == [39, 19, 12, 32, 51]


def test_the_best_rate_halves_with_twice_the_depth():
    rows = variant_curves.by_size(committed(findings_variants.BENCHMARK))
    names = ("plain", "2 hidden layers", "4 hidden layers")
    rates = [variant_curves.steps_of(rows[name][32])[0] for name in names]
    assert rates == pytest.approx([0.5, 0.28, 0.144])


def rounded(found, digits=1):
    return tuple(round(end, digits) for end in found)
