"""The factor rules, by hand."""

import itertools
import math

import pytest

from lightning_noise.adapt.learning_rate import check_rule, learning_rate_factor
from lightning_noise.core.estimate import NoiseEstimate

RESOLVED = NoiseEstimate(1000.0, 800.0, 1200.0, 1.0, 1000.0, True, 400, 180.0)
UNRESOLVED = NoiseEstimate(None, 700.0, None, 0.1, 900.0, False, 400, 180.0)
UNKNOWN = NoiseEstimate(None, None, None, 0.0, 0.0, False, 0, 0.0)


@pytest.mark.parametrize(
    ("rule", "old", "new", "estimate", "alpha", "expected"),
    [
        ("optimal", 100, 400, RESOLVED, 1.0, (1 + 8) / (1 + 2)),  # growing: the lower end
        ("optimal", 100, 400, RESOLVED, 0.5, math.sqrt(3)),
        ("optimal", 400, 100, RESOLVED, 1.0, (1 + 3) / (1 + 12)),  # shrinking: the upper end
        ("optimal", 100, 400, UNRESOLVED, 1.0, (1 + 7) / (1 + 1.75)),
        ("optimal", 400, 100, UNRESOLVED, 1.0, 0.25),  # no upper end: R is infinite
        ("optimal", 400, 100, UNRESOLVED, 0.5, 0.5),
        ("optimal", 100, 400, UNKNOWN, 1.0, 1.0),  # no lower end: R is 0
        ("optimal", 64, 64, RESOLVED, 1.0, 1.0),
        ("linear", 100, 400, RESOLVED, 0.5, 4.0),
        ("sqrt", 100, 400, RESOLVED, 1.0, 2.0),
        (None, 100, 400, RESOLVED, 1.0, 1.0),
        (
            lambda old, new, estimate: new / old * estimate.noise_scale / 2000,
            100,
            400,
            RESOLVED,
            1.0,
            2.0,
        ),
    ],
)
def test_factor(rule, old, new, estimate, alpha, expected):
    assert learning_rate_factor(rule, old, new, estimate, alpha=alpha) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_chosen_end_of_the_interval_gives_the_smaller_rate(alpha):
    for old, new in ((64, 512), (512, 64)):
        chosen = learning_rate_factor("optimal", old, new, RESOLVED, alpha=alpha)
        every = [
            ((1 + b / old) / (1 + b / new)) ** alpha
            for b in (RESOLVED.low, RESOLVED.noise_scale, RESOLVED.high)
        ]
        assert chosen == pytest.approx(min(every), rel=1e-12)


def test_one_factor_from_the_start_returns_to_one():
    sizes = [32, 64, 256, 128, 32]
    factors = [learning_rate_factor("optimal", sizes[0], size, RESOLVED) for size in sizes]
    assert factors[0] == factors[-1] == 1.0
    product = math.prod(
        learning_rate_factor("optimal", a, b, RESOLVED) for a, b in itertools.pairwise(sizes)
    )
    assert product < 0.99


@pytest.mark.parametrize("returned", [0.0, -1.0, math.nan, math.inf, None, True, "2"])
def test_a_callable_that_returns_no_factor_is_named(returned):
    def mine(old, new, estimate):
        return returned

    with pytest.raises(
        ValueError,
        match=rf"learning_rate=mine must return a finite number > 0 .*returned {returned!r}",
    ):
        learning_rate_factor(mine, 1, 2, RESOLVED)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"learning_rate must be one of .* got 'cubic'"):
        learning_rate_factor("cubic", 1, 2, RESOLVED)
    for wrong in (2.0, float, True):
        with pytest.raises(TypeError, match=r"learning_rate must be one of"):
            check_rule(wrong)
    with pytest.raises(ValueError, match="new must be a finite number > 0, got 0"):
        learning_rate_factor("linear", 1, 0, RESOLVED)
    with pytest.raises(ValueError, match="old must be a finite number > 0, got nan"):
        learning_rate_factor("linear", math.nan, 1, RESOLVED)
