"""Bounds on the noise scale of a whole model: they hold for all parts, and some attain them."""

import random

import pytest

from lightning_noise.core.left_out import whole_bounds


def parts(signal, noise, left_signal, left_noise, size):
    """Noise scale of the covered part and of the whole, and the share that is left out."""
    seen = signal + noise / size
    left = left_signal + left_noise / size
    whole = (noise + left_noise) / (signal + left_signal)
    return noise / signal, whole, left / (seen + left)


def test_they_hold_whatever_is_left_out():
    draw = random.Random(0)
    for _ in range(2000):
        values = [10 ** draw.uniform(-4, 4) for _ in range(4)]
        size = 10 ** draw.uniform(0, 5)
        covered, whole, share = parts(*values, size)
        low, high = whole_bounds(covered, size, share)
        assert low * (1 - 1e-9) <= whole <= high * (1 + 1e-9)
        assert low <= covered <= high


@pytest.mark.parametrize(("signal", "noise", "end"), [(0.5, 0.0, 0), (0.0, 70.0, 1)])
def test_each_is_attained(signal, noise, end):
    """All of what is left out is signal, or all of it is noise."""
    covered, whole, share = parts(2.0, 30.0, signal, noise, 16.0)
    assert whole_bounds(covered, 16.0, share)[end] == pytest.approx(whole, rel=1e-12)


def test_nothing_left_out_leaves_no_doubt():
    assert whole_bounds(15.0, 16.0, 0.0) == (15.0, 15.0)
