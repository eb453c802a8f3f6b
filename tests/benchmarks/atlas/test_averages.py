"""Noise scales of groups of steps, with known answers."""

import math
import random
from statistics import fmean

import pytest

from benchmarks.atlas.averages import Group, averages, bounded_averages, curve, joined, pooled


def group(signals, noises):
    """The sums of some measured steps."""
    pairs = list(zip(signals, noises, strict=True))
    return Group(
        steps=len(pairs),
        measured=len(pairs),
        signal=sum(signals),
        noise=sum(noises),
        signal_sq=sum(s * s for s in signals),
        noise_sq=sum(n * n for n in noises),
        cross=sum(s * n for s, n in pairs),
    )


def exact(scale, steps):
    """A group without scatter."""
    return group([1.0] * steps, [scale] * steps)


def test_a_noise_scale_is_a_ratio_of_sums_and_no_mean_of_ratios():
    found = pooled([group([3.0], [2.0]), group([-1.0], [4.0])])
    assert found.noise_scale == 3.0
    assert group([-1.0], [4.0]).noise_scale == math.inf


def test_the_four_averages_of_two_stretches():
    found = averages([exact(100.0, 300), exact(900.0, 300)], global_size=100)
    assert found == pytest.approx((100, 500, 233 + 1 / 3, 900))
    assert curve([exact(100.0, 300), exact(900.0, 300)], 100).s_min == pytest.approx(180)


def test_neighbours_are_joined_until_the_signal_is_resolved():
    noisy = group([12.0, 4.0, 11.0], [1.0, 2.0, 3.0])  # 3.6 standard errors above 0
    clear = group([10.0, 10.0, 10.1], [5.0, 5.0, 5.0])
    found = joined([noisy, clear, clear, noisy])
    assert [one.measured for one in found] == [6, 6]
    assert found[-1].signal == pytest.approx(clear.signal + noisy.signal)


def test_what_is_nowhere_resolved_gives_nothing():
    assert joined([group([1.0, -1.0, 0.5], [1.0, 1.0, 1.0])] * 3) == []
    assert joined([group([1.0] * 5, [-1.0] * 5)]) == []  # negative curvature


def test_large_gradients_do_not_dominate_a_join():
    large = group([2e6, 2.2e6, 1.8e6], [2e6, 2.2e6, 1.8e6])
    small = group([1.0, 1.1, 0.9], [4.0, 4.4, 3.6])
    together = pooled([large.normalised(), small.normalised()])
    assert together.noise_scale == pytest.approx(2 / (1 + 1 / 4))
    assert large.normalised().noise_scale == pytest.approx(large.noise_scale)


def test_the_scatter_of_drawn_sums_is_that_of_the_steps():
    one = group([1.0, 2.0, 4.0, 5.0], [2.0, 1.0, 6.0, 3.0])
    source = random.Random(3)
    drawn = [one.drawn(source) for _ in range(4000)]
    signal_var, noise_var, cross = one.covariance()
    assert signal_var == pytest.approx(4 * 10 / 3)  # n times the sample variance
    means = one.signal, one.noise
    products = [(d.signal - means[0]) * (d.noise - means[1]) for d in drawn]
    squares = [(d.noise - means[1]) ** 2 for d in drawn]
    error = 4 * (noise_var * signal_var + cross**2) ** 0.5 / 4000**0.5
    assert abs(fmean(products) - cross) < error
    assert abs(fmean(squares) - noise_var) < 4 * noise_var * (2 / 4000) ** 0.5


def test_an_interval_without_scatter_is_a_point():
    found = bounded_averages([exact(5.0, 10)], global_size=20)
    assert all(one == pytest.approx((5.0, 5.0, 5.0)) for one in found.values())
