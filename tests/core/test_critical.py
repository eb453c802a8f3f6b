"""The hyperbola fit: exact data, noise of a known size, scipy as the oracle, and what it refuses to
say.
"""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, least_squares
from scipy.stats import t as student_t

from lightning_noise import CriticalBatchSize

WIDE = [2**k for k in range(3, 17)]


def truth(size, b_crit=1000.0, s_min=1000.0):
    return s_min * (1 + b_crit / size)


def noisy(sizes, sd, seed=0, **kind):
    rng = np.random.default_rng(seed)
    return [truth(size, **kind) * math.exp(sd * rng.standard_normal()) for size in sizes]


@pytest.mark.parametrize(("b_crit", "s_min"), [(1000, 1000), (37.5, 12), (2.0e4, 3e5)])
def test_exact_data_give_the_exact_curve_without_a_residual(b_crit, s_min):
    sizes = [b_crit * 4.0**k for k in range(-3, 4)]
    found = CriticalBatchSize.fit(sizes, [truth(size, b_crit, s_min) for size in sizes])
    assert found[:5] == pytest.approx((b_crit, b_crit, b_crit, s_min, s_min * b_crit), rel=1e-9)
    assert found.residual < 1e-13
    assert found.warnings == ()


def test_the_known_answer():
    found = CriticalBatchSize.fit(WIDE, [truth(size) for size in WIDE])
    assert found.b_crit == pytest.approx(1000, rel=1e-12)
    assert found.steps(250) == pytest.approx(5000)
    assert found.examples(4000) == pytest.approx(5e6)
    assert found.examples(700) == pytest.approx(700 * found.steps(700))


@pytest.mark.parametrize("seed", range(20))
def test_within_four_standard_deviations_under_five_percent_noise(seed):
    found = CriticalBatchSize.fit(WIDE, noisy(WIDE, 0.05, seed))
    assert abs(found.b_crit / 1000 - 1) < 0.14


@pytest.mark.parametrize("sd", [0.05, 0.3])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_scipy_finds_the_same_curve_and_the_same_interval(sd, confidence):
    steps = noisy(WIDE, sd, seed=3)
    x, y = np.array(WIDE, dtype=float), np.log(steps)

    def residuals(p):
        return y - np.log(np.exp(p[0]) + np.exp(p[1]) / x)  # two free unknowns: ln S_min, ln E_min

    best = least_squares(residuals, [7.0, 14.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    rss, m = 2 * best.cost, len(x)
    limit = rss * (1 + student_t.ppf(0.5 + confidence / 2, m - 2) ** 2 / (m - 2))

    def excess(u):  # the least RSS at a given b_crit, by an explicit mean
        r = y - np.log1p(np.exp(u) / x)
        return ((r - r.mean()) ** 2).sum() - limit

    top = best.x[1] - best.x[0]
    found = CriticalBatchSize.fit(WIDE, steps, confidence=confidence)
    assert found.s_min == pytest.approx(math.exp(best.x[0]), rel=1e-6)
    assert found.e_min == pytest.approx(math.exp(best.x[1]), rel=1e-6)
    assert found.residual == pytest.approx(math.sqrt(rss / m), rel=1e-9)
    assert found.low == pytest.approx(math.exp(brentq(excess, top - 5, top)), rel=1e-6)
    assert found.high == pytest.approx(math.exp(brentq(excess, top, top + 5)), rel=1e-6)


def test_seeds_of_a_size_count_as_their_geometric_mean_in_any_order():
    sizes = [16, 64, 256, 1024, 4096, 16384]
    steps = noisy(sizes, 0.1)
    spread = [*(s * 1.3 for s in steps), *(s / 1.3 for s in steps)]
    assert CriticalBatchSize.fit([*sizes, *sizes], spread)[:6] == pytest.approx(
        CriticalBatchSize.fit(sizes, steps)[:6], rel=1e-9
    )
    backwards = CriticalBatchSize.fit(sizes[::-1], steps[::-1])
    assert backwards == CriticalBatchSize.fit(sizes, steps)


def test_units_do_not_matter():
    steps = noisy(WIDE, 0.1)
    plain = CriticalBatchSize.fit(WIDE, steps)
    tokens = CriticalBatchSize.fit([128 * size for size in WIDE], steps)
    assert tokens[:6] == pytest.approx(
        (
            128 * plain.b_crit,
            128 * plain.low,
            128 * plain.high,
            plain.s_min,
            128 * plain.e_min,
            plain.residual,
        ),
        rel=1e-9,
    )


@pytest.mark.parametrize(
    "exponents", [WIDE, [2**k for k in (6, 9, 11, 14)]], ids=["14 sizes", "4 sizes"]
)
def test_interval_covers_in_simulation(exponents):
    """200 studies: four standard errors of a share of 95 % are 6.2 points; a normal quantile for t
    gives 80 % at 4 sizes.
    """
    held = 0
    for seed in range(200):
        found = CriticalBatchSize.fit(exponents, noisy(exponents, 0.05, seed))
        held += (found.low or 0) <= 1000 <= (found.high or math.inf)
    assert abs(held / 200 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 200)


def test_confidence_widens_the_interval():
    steps = noisy(WIDE, 0.1)
    inner, outer = (CriticalBatchSize.fit(WIDE, steps, confidence=c) for c in (0.5, 0.99))
    assert outer.low < inner.low < inner.b_crit < inner.high < outer.high


# what the sizes do not reach


def test_sizes_that_stop_short_of_four_times_b_crit_leave_no_upper_bound():
    sizes = [2**k for k in range(3, 11)]
    found = CriticalBatchSize.fit(sizes, noisy(sizes, 0.02))
    assert found.high is None and found.low < 1000 < 2 * found.low
    assert found.warnings == (
        "b_crit has no upper bound: the sizes do not reach up to 4 b_crit. Add the sizes 2048, "
        "4096.",
    )


def test_sizes_that_start_above_a_quarter_of_b_crit_leave_no_lower_bound():
    sizes = [2**k for k in range(9, 17)]
    found = CriticalBatchSize.fit(sizes, noisy(sizes, 0.02))
    assert found.low is None and found.high > 1000 > found.high / 2
    assert found.warnings == (
        "b_crit has no lower bound: the sizes do not reach down to b_crit/4. Add the sizes 128, "
        "256.",
    )


def test_exactly_a_quarter_and_four_times_are_enough():
    sizes = [250, 500, 2000, 4000]
    found = CriticalBatchSize.fit(sizes, [truth(size) for size in sizes])
    assert None not in found[:3] and found.warnings == ()


def test_noise_that_hides_the_bend_takes_the_bound_away():
    sizes = [8, 16, 32, 64, 128, 256, 512]
    steps = [
        truth(size) * factor
        for size, factor in zip(sizes, (1.3, 0.7, 1.2, 0.8, 1.3, 0.75, 1.2), strict=True)
    ]
    found = CriticalBatchSize.fit(sizes, steps)
    assert found.high is None and found.low is not None
    assert "perfect scaling fits as well" in found.warnings[0]
    assert found.warnings[1] == (
        "the curve misses the steps by 26 % (rms), so the shape itself is in doubt. Batch size 16 "
        "lies farthest from it (29 % below): search the learning rate there with more trials and "
        "in a wider range, and run more seeds."
    )


def test_noise_that_hides_the_slope_takes_the_lower_bound_away():
    sizes = [512, 1024, 2048, 4096, 8192, 16384]
    steps = [
        truth(size) * factor
        for size, factor in zip(sizes, (0.7, 0.9, 1.4, 0.6, 1.5, 0.9), strict=True)
    ]
    found = CriticalBatchSize.fit(sizes, steps)
    assert found.low is None and found.high is not None
    assert "constant steps fit as well" in found.warnings[0]


def test_no_smaller_size_is_named_where_there_is_none():
    sizes = [1, 4, 16, 64]
    found = CriticalBatchSize.fit(sizes, [truth(size, b_crit=2) for size in sizes])
    assert found.warnings == (
        "b_crit has no lower bound: the sizes do not reach down to b_crit/4. There are no smaller "
        "batch sizes to add.",
    )


# refusals


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([], "got none: measure at 8, 32, 128 and 512"),
        ([64], r"got 1 \(64\)\. Add 16, 32, 256, 1024, 4096, say"),
        ([8, 16, 16, 8], r"got 2 \(8, 16\)\. Add 2, 4, 64, 256, say"),
        ([32, 128, 512], r"got 3 \(32, 128, 512\)\. Add 8, 16, 1024, 2048, say"),
    ],
)
def test_fewer_than_four_sizes_are_refused_with_sizes_to_add(sizes, said):
    with pytest.raises(
        ValueError, match=f"batch_sizes must hold at least four different sizes, {said}"
    ):
        CriticalBatchSize.fit(sizes, [truth(size) for size in sizes])


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (
            lambda size: 1e6 / size,
            "scale perfectly, without a bend: b_crit lies far above 128. Add the sizes 512, 2048",
        ),
        (
            lambda size: {16: 1000, 32: 450, 64: 200, 128: 95}[size],
            "scale perfectly.*Add the sizes 512, 2048",
        ),
        (
            lambda size: truth(size, b_crit=600),
            "scale perfectly, without a bend.*Add the sizes 512, 2048",
        ),
        (
            lambda size: 700.0,
            "do not fall, so there is no bend: b_crit lies far below 16. Add the sizes 1, 4",
        ),
        (lambda size: 10.0 * size, "show no bend.*Add the sizes 4, 8, 256, 512, and more seeds"),
        (
            lambda size: {16: 900, 32: 90, 64: 950, 128: 100}[size],
            "show no bend: perfect scaling and constant steps fit as well",
        ),
    ],
    ids=[
        "perfect scaling",
        "faster than 1/B",
        "bend out of reach",
        "constant",
        "rising",
        "scatter",
    ],
)
def test_no_bend_is_refused_with_sizes_to_add(law, said):
    sizes = [16, 32, 64, 128]
    with pytest.raises(ValueError, match=said):
        CriticalBatchSize.fit(sizes, [law(size) for size in sizes])


@pytest.mark.parametrize("bad", [0, -3, math.nan, math.inf, "64", None, True])
def test_only_positive_numbers(bad):
    with pytest.raises(ValueError, match=r"batch_sizes must be finite and > 0, got"):
        CriticalBatchSize.fit([bad, 8, 16, 32, 64], [5, 4, 3, 2, 1])
    with pytest.raises(ValueError, match=r"steps must be finite and > 0, got"):
        CriticalBatchSize.fit([4, 8, 16, 32, 64], [bad, 4, 3, 2, 1])
    found = CriticalBatchSize.fit(WIDE, [truth(size) for size in WIDE])
    for method in (found.steps, found.examples, found.overhead_size):
        with pytest.raises(ValueError, match="must be finite and > 0"):
            method(bad)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match="one length, got 5 and 4"):
        CriticalBatchSize.fit([4, 8, 16, 32, 64], [4, 3, 2, 1])
    for confidence in (0, 1, 95, math.nan, "0.95", None):
        with pytest.raises(ValueError, match="confidence must lie in"):
            CriticalBatchSize.fit(WIDE, WIDE, confidence=confidence)
    found = CriticalBatchSize.fit(WIDE, [truth(size) for size in WIDE])
    for tolerance in (0, 1, math.nan):
        with pytest.raises(ValueError, match="tolerance must lie in"):
            found.end_of_perfect_scaling(tolerance)


# numbers that are not b_crit


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.2])
def test_end_of_perfect_scaling_is_where_a_doubling_falls_short(tolerance):
    found = CriticalBatchSize.fit(WIDE, noisy(WIDE, 0.05))
    end = found.end_of_perfect_scaling(tolerance)
    assert found.steps(end) == pytest.approx((1 + tolerance) * found.steps(end / 2) / 2)
    start = found.start_of_maximal_parallelism(tolerance)
    assert found.steps(start) == pytest.approx((1 + tolerance) * found.steps(2 * start))


@pytest.mark.parametrize("overhead", [0.2, 1.0])
def test_overhead_is_on_examples_and_on_the_steps_of_perfect_scaling_alike(overhead):
    found = CriticalBatchSize.fit(WIDE, noisy(WIDE, 0.05))
    size = found.overhead_size(overhead)
    assert found.examples(size) == pytest.approx((1 + overhead) * found.e_min)
    assert found.steps(size) == pytest.approx((1 + overhead) * found.e_min / size)
    assert found.overhead_size(1.0) == found.b_crit
