import itertools
import math

import pytest

from lightning_noise import tradeoff


def test_the_paper_s_table():
    rows = [(p.steps_factor, p.examples_factor) for p in tradeoff.frontier(1000, [250, 1000, 4000])]
    assert rows == [(5.0, 1.25), (2.0, 2.0), (1.25, 5.0)]
    assert all((s - 1) * (e - 1) == pytest.approx(1) for s, e in rows)


def test_quadratic_model():
    """H = diag(1, 4), G = (1, 1), Σ = diag(2, 3): B_simple 2.5, B_noise 2.8, eps_max 0.4, dL_max
    0.4.
    """
    grad_sq, trace, ghg, trace_h = 2.0, 5.0, 5.0, 14.0
    assert (trace / grad_sq, trace_h / ghg, grad_sq / ghg, grad_sq**2 / (2 * ghg)) == (
        2.5,
        2.8,
        0.4,
        0.4,
    )
    assert tradeoff.eps_opt(2.8, 2.8, 0.4) == pytest.approx(0.2)
    assert tradeoff.dl_opt(2.8, 2.8, 0.4) == pytest.approx(0.2)


def test_gain_is_the_ratio_of_steps_and_chains():
    for old, new in itertools.product((16, 100, 3000), repeat=2):
        assert tradeoff.gain(500, old, new) == pytest.approx(
            tradeoff.steps_factor(old, 500) / tradeoff.steps_factor(new, 500)
        )
        assert tradeoff.gain(500, old, 64) * tradeoff.gain(500, 64, new) == pytest.approx(
            tradeoff.gain(500, old, new)
        )
        assert min(1, new / old) <= tradeoff.gain(500, old, new) <= max(1, new / old)


def test_exchange_rate_minimises_the_cost_of_the_model():
    """sqrt(rate · b) is where steps · rate + examples is least: rate·(1 + b/B) + (b + B)."""
    rate, b = 300.0, 80.0
    best = tradeoff.exchange_rate_size(rate, b)
    cost = [rate * (1 + b / size) + b + size for size in (best * 0.99, best, best * 1.01)]
    assert cost[1] < cost[0] and cost[1] < cost[2]


def test_gamma_of_a_linear_noise_scale():
    """b = s on [0, 1]: (∫ sqrt(s) ds)² / ∫ s ds = (2/3)² / (1/2) = 8/9."""
    values = [(i + 0.5) / 10000 for i in range(10000)]
    assert tradeoff.gamma(values) == pytest.approx(8 / 9, rel=1e-5)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "8", None])
def test_only_positive_numbers(bad):
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        tradeoff.steps_factor(bad, 10)
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        tradeoff.examples_factor(10, bad)
    with pytest.raises(ValueError, match="old must be"):
        tradeoff.gain(10, bad, 10)
    with pytest.raises(ValueError, match="rate"):
        tradeoff.exchange_rate_size(bad, 10)
    with pytest.raises(ValueError, match="bs"):
        tradeoff.gamma([1.0, bad])
    with pytest.raises(ValueError, match="at least one"):
        tradeoff.gamma([])
