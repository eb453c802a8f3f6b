import math

import numpy as np
import pytest
from scipy.stats import t

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import (
    estimate_from,
    estimate_noise_scale,
    ratio_interval,
    steps_to_resolve,
)
from lightning_noise.core.moments import Moments, from_contributions
from testing.simulate import gaussian_moments

TWO_STEPS = [Moments(40.46, 22.5, 1.0, 0.5), Moments(28.62, 18.81, 1.0, 0.5)]


def four_standard_errors(values):
    return 4 * np.std(values, ddof=1) / math.sqrt(len(values))


def test_averages_first_and_divides_last():
    e = estimate_noise_scale(TWO_STEPS, decay=0.998)
    assert e.noise == pytest.approx(27.76184184, rel=1e-9)
    assert e.signal == pytest.approx(6.77223223, rel=1e-9)
    assert e.noise / e.signal == pytest.approx(
        4.0993635, rel=1e-7
    )  # the mean of the ratios would be 5.0431
    assert (e.noise_scale, e.low, e.high, e.resolved, e.steps) == (None, None, None, False, 2)


def test_orthogonal_groups_are_not_resolved():
    """Four orthogonal unit gradients per output, 20 times alike: |G|² is 0 without any variance."""
    e = estimate_noise_scale([Moments(2.0, 0.5, 1.0, 0.25)] * 20)
    assert (e.noise, e.signal) == (2.0, 0.0)
    assert (e.noise_scale, e.low, e.high, e.resolved) == (None, None, None, False)


NOT_FINITE, OVERFLOWED = Moments(math.nan, 1.0, 1.0, 0.5), Moments(math.inf, 1.0, 1.0, 0.5)
ONE_GROUP = Moments(2.0, 2.0, 0.5, 0.5)


@pytest.mark.parametrize("record", [NOT_FINITE, OVERFLOWED, ONE_GROUP])
@pytest.mark.parametrize("count", [0, 20])
def test_unusable_steps_give_no_numbers(record, count):
    e = estimate_noise_scale([record] * count)
    assert math.isnan(e.signal) and math.isnan(e.noise)
    assert (*e[:3], *e[5:]) == (None, None, None, False, 0, 0.0)


def test_nothing_is_concluded_from_an_empty_average():
    average = RunningAverage(0.99)
    assert ratio_interval(average) is None and steps_to_resolve(average) is None


def test_no_noise_at_all_is_not_measured():
    e = estimate_noise_scale([Moments(6.0, 6.0, 1.0, 0.5)] * 20)
    assert (e.noise, e.signal, e.noise_scale, e.low) == (0.0, 6.0, None, None)


def test_fieller_against_its_definition():
    """The ends of the interval are the rho at which (my − rho·mx)² = t² Var(my − rho·mx)."""
    average = RunningAverage(0.95)
    for m in gaussian_moments(np.random.default_rng(0), 40, [16, 16, 16], noise_scale=50):
        average.update(m)
    ratio, e = ratio_interval(average), estimate_from(average)
    (mx, my), spread = average.means(), average.covariance()
    t2 = t.ppf(0.975, average.nu) ** 2
    for rho in (ratio.low, ratio.high):
        variance = spread.signal - 2 * rho * spread.cross + rho**2 * spread.noise
        assert (my - rho * mx) ** 2 == pytest.approx(t2 * variance, rel=1e-5)
    assert (e.low, e.high) == (1 / ratio.high, 1 / ratio.low)


def test_weighted_variance_of_the_mean_matches_repetition():
    """The sandwich variance, averaged over many runs, is the variance of the weighted mean between
    runs.
    """
    rng = np.random.default_rng(1)
    means, variances = [], []
    for _ in range(1500):
        average = RunningAverage(0.9)
        for size in (16, 64):
            for m in gaussian_moments(rng, 8, [size] * 2, noise_scale=30, dimensions=20):
                average.update(m)
        means.append(average.means())
        variances.append(
            (average.covariance().noise, average.covariance().signal, average.covariance().cross)
        )
    covariance = np.cov(np.array(means).T)
    got = np.array(variances)
    for index, expected in ((0, covariance[0, 0]), (1, covariance[1, 1])):
        error = abs(got[:, index].mean() / expected - 1)
        assert error < 4 * np.sqrt(
            2 / 1500 + (got[:, index].std() / got[:, index].mean()) ** 2 / 1500
        )
    assert abs(got[:, 2].mean() - covariance[0, 1]) < 4 * np.sqrt(
        2 * covariance[0, 0] * covariance[1, 1] / 1500
    )


def test_uneven_groups_with_equal_weights():
    """Micro-batches of 32, 32, 32, 4 with equal weights: the estimate is 100 where the nominal
    sizes give 275.
    """
    moments = gaussian_moments(np.random.default_rng(2), 4000, [32, 32, 32, 4], noise_scale=100)
    for values, truth in (([m.noise for m in moments], 100), ([m.signal for m in moments], 1)):
        assert abs(np.mean(values) - truth) < four_standard_errors(values)
    e = estimate_noise_scale(moments)
    assert e.low < 100 < e.high


def test_small_batches_at_a_large_noise_scale():
    """True 1024 from b = 8, K = 2, 4000 steps: standard error of |G|² is .102 (clamping every step
    would give 330).
    """
    moments = gaussian_moments(np.random.default_rng(3), 4000, [8, 8], noise_scale=1024)
    grad_sq = [m.signal for m in moments]
    assert np.std(grad_sq) / math.sqrt(4000) == pytest.approx(0.102, rel=0.08)
    assert 0.15 < np.mean(np.array(grad_sq) < 0) < 0.7
    assert abs(np.mean(grad_sq) - 1) < four_standard_errors(grad_sq)
    e = estimate_noise_scale(moments)
    assert e.low < 1024 < e.high
    assert 1 / e.low - 1 / e.high == pytest.approx(
        1 / 853 - 1 / 1284, rel=0.08
    )  # the interval when the estimate is the truth


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_variance_of_one_step_follows_theory(groups):
    """Var(trace) = 2 tr(Σ²)/(K−1); Var(grad_sq) = 4GᵀΣG/n + 2 tr(Σ²)K/((K−1)n²); covariance
    −Var(trace)/n.
    """
    b, dimensions, trace, steps = 4, 50, 20.0, 6000
    moments = gaussian_moments(
        np.random.default_rng(groups), steps, [b] * groups, noise_scale=trace, dimensions=dimensions
    )
    n, trace_sq = groups * b, trace**2 / dimensions
    x, y = np.array([m.noise for m in moments]), np.array([m.signal for m in moments])
    var_x = 2 * trace_sq / (groups - 1)
    var_y = 4 * trace / dimensions / n + 2 * trace_sq * groups / ((groups - 1) * n**2)
    relative = 4 * math.sqrt(2.6 / steps)  # kurtosis of these quadratic forms is below 3.6
    assert abs(x.var() / var_x - 1) < relative
    assert abs(y.var() / var_y - 1) < relative
    assert abs(np.cov(x, y)[0, 1] + var_x / n) < 4 * math.sqrt(2 * var_x * var_y / steps)


def test_token_mean_loss():
    """Token counts with coefficient of variation 1: contributions with shares of examples stay
    within 10 % and positive.
    """
    rng = np.random.default_rng(4)
    d, steps, groups, b = 50, 3000, 4, 16
    truth = 20.0
    tokens = np.maximum(1, np.round(rng.exponential(30, size=(steps, groups, b))))
    total = tokens.sum(axis=(1, 2), keepdims=True)
    noise = rng.standard_normal((steps, groups, b, d)) * math.sqrt(truth / d)
    noise[..., 0] += 1.0
    mean_tokens = tokens.mean()
    contribution = (tokens[..., None] * noise).sum(axis=2) / total  # (steps, groups, d)
    moments = [
        from_contributions(
            list((c * c).sum(axis=1)),
            [1 / groups] * groups,
            [b] * groups,
            float((c.sum(axis=0) ** 2).sum()),
        )
        for c in contribution
    ]
    e = estimate_noise_scale(moments)
    # One example's contribution is t/E[t] times its mean gradient: tr Σ = E[t²]/E[t]² (|G|² + tr
    # Σ₀) − |G|², |G|² = 1.
    spread = float((tokens**2).mean() / mean_tokens**2)
    assert e.signal > 0
    assert e.noise_scale == pytest.approx(spread * (truth + 1) - 1, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "least"), [(20, 0.95), (5, 0.94)])
def test_coverage_where_nothing_is_easy(steps, least):
    """B_simple 1024, b = 8, K = 2, D = 400: 95 % within 4 standard errors (z instead of t: 92.8 %
    at 20 steps, 84 % at 5).
    """
    runs = 2000
    moments = gaussian_moments(np.random.default_rng(steps), runs * steps, [8, 8], noise_scale=1024)
    hits = []
    for run in range(runs):
        e = estimate_noise_scale(moments[run * steps : (run + 1) * steps])
        hits.append((e.low is None or e.low <= 1024) and (e.high is None or e.high >= 1024))
    assert abs(np.mean(hits) - least) < 4 * math.sqrt(0.05 * 0.95 / runs) + (0.95 - least)


def test_batch_change_in_mid_run_still_covers():
    rng, runs, hits = np.random.default_rng(7), 2000, 0
    for _ in range(runs):
        moments = gaussian_moments(rng, 10, [8] * 8, noise_scale=64, dimensions=40)
        moments += gaussian_moments(rng, 10, [64] * 8, noise_scale=64, dimensions=40)
        e = estimate_noise_scale(moments)
        hits += (e.low is None or e.low <= 64) and (e.high is None or e.high >= 64)
    assert abs(hits / runs - 0.95) < 4 * math.sqrt(0.05 * 0.95 / runs) + 0.02


def test_weighting_by_effective_size_is_efficient():
    """After a x4 change a step weighs 1/c_big: the error of |G|² is smaller than with equal
    weights.
    """
    rng, ours, equal = np.random.default_rng(8), [], []
    for _ in range(400):
        moments = gaussian_moments(rng, 10, [8] * 2, noise_scale=100, dimensions=50)
        moments += gaussian_moments(rng, 10, [32] * 2, noise_scale=100, dimensions=50)
        ours.append(estimate_noise_scale(moments).signal)
        equal.append(np.mean([m.signal for m in moments]))
    assert np.var(ours) < 0.6 * np.var(equal)


def test_steps_that_say_nothing_are_passed_over():
    good = gaussian_moments(np.random.default_rng(9), 12, [4, 4], noise_scale=10)
    bad = [
        Moments(math.nan, 1.0, 1.0, 0.5),
        Moments(math.inf, math.inf, 1.0, 0.5),
        Moments(1.0, 1.0, 0.5, 0.5),
    ]
    assert estimate_noise_scale([*bad, *good]) == estimate_noise_scale(good)


def test_finite_data_correction():
    average = RunningAverage(1.0)
    for m in gaussian_moments(np.random.default_rng(10), 300, [16, 16], noise_scale=30):
        average.update(m)
    plain, corrected = estimate_from(average), estimate_from(average, data_size=100)
    assert corrected.low == pytest.approx(1 / (1 / plain.low + 1 / 100), rel=1e-12)
    assert (corrected.high, corrected.noise_scale) == (plain.high, plain.noise_scale)
    flat = RunningAverage(1.0)
    for _ in range(10):
        flat.update(Moments(2.0, 0.5, 1.0, 0.25))
    assert estimate_from(flat, data_size=100).low == 100


def test_forecast_of_the_steps_needed():
    """About 166 steps at B_simple = 1024, n = 16, d_eff = 400."""
    average = RunningAverage(1.0)
    for m in gaussian_moments(np.random.default_rng(11), 20000, [8, 8], noise_scale=1024):
        average.update(m)
    assert steps_to_resolve(average) == pytest.approx(166, rel=0.15)
    assert steps_to_resolve(RunningAverage(1.0)) is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"decay": 0.0}, "decay"), ({"decay": 1.1}, "decay"), ({"confidence": 1.0}, "conf")],
)
def test_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=name):
        estimate_noise_scale(TWO_STEPS, **arguments)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="decay must be None or a number"):
        estimate_noise_scale(TWO_STEPS, decay="x")
    with pytest.raises(TypeError, match=r"moments must hold Moments.*\(1.0, 2.0\)"):
        estimate_noise_scale([(1.0, 2.0)])


def test_wider_confidence_gives_a_wider_interval():
    moments = gaussian_moments(np.random.default_rng(12), 50, [16, 16], noise_scale=30)
    narrow, wide = estimate_noise_scale(moments), estimate_noise_scale(moments, confidence=0.99)
    assert wide.low < narrow.low < narrow.noise_scale < narrow.high < wide.high


def test_gradients_too_large_to_square_give_no_interval():
    """Of 1e160 the squares overflow: an end would be 0 or infinite, which is no noise scale."""
    steps = [Moments(scale * 2e160, scale * 1e160, 1 / 4, 1 / 64) for scale in (1.0, 1.5, 0.7)]
    estimate = estimate_noise_scale(steps * 20)
    assert (estimate.low, estimate.high, estimate.resolved) == (None, None, False)
