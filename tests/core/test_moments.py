import itertools
import math

import pytest

from lightning_noise.core.moments import Moments, add, from_contributions


def test_two_point_distribution_is_unbiased_exactly():
    """x1, x2 iid in {1, 3}: the mean over all four cases is (tr Σ, |G|²) = (1, 4); the mean of
    ratios would be −19/7.
    """
    steps = [
        Moments(x1 * x1, ((x1 + x2) / 2) ** 2, 1.0, 0.5)
        for x1, x2 in itertools.product((1.0, 3.0), repeat=2)
    ]
    assert [(m.noise, m.signal) for m in steps] == [
        (0.0, 1.0),
        (-6.0, 7.0),
        (10.0, -1.0),
        (0.0, 9.0),
    ]
    assert sum(m.noise for m in steps) / 4 == 1.0
    assert sum(m.signal for m in steps) / 4 == 4.0


def test_published_example():
    m = Moments(4.1e-2, 2.8e-3, 1 / 32, 1 / 512)
    assert m.signal == pytest.approx(2.533333333333e-4, rel=1e-9)
    assert m.noise == pytest.approx(1.30389333, rel=1e-8)
    assert m.noise / m.signal == pytest.approx(5146.947, rel=1e-6)


def test_unequal_groups_weighted_by_size():
    """The regression problem of tests/problems.py with groups of 1 and 3: 18.8333 and 18.41667."""
    g1, g3 = (-2.0, -8.0), (-7 / 3, -3.0)
    mean = tuple(0.25 * a + 0.75 * b for a, b in zip(g1, g3, strict=True))
    m = from_contributions(
        [0.25**2 * sum(x * x for x in g1), 0.75**2 * sum(x * x for x in g3)],
        [1, 3],
        [1, 3],
        sum(x * x for x in mean),
    )
    assert m.noise == pytest.approx(18.83333333, rel=1e-9)
    assert m.signal == pytest.approx(18.41666667, rel=1e-9)


def test_partial_records_of_ranks_sum_to_the_step():
    parts = [Moments(1.5, 0.5, 0.25, 0.125), Moments(2.5, 0.5, 0.25, 0.125)]
    assert add(parts) == Moments(4.0, 1.0, 0.5, 0.25)
    assert add([]) == Moments(0.0, 0.0, 0.0, 0.0)


def test_one_group_says_nothing():
    m = Moments(3.0, 3.0, 1 / 3, 1 / 3)
    assert not m.has_groups
    with pytest.raises(ValueError, match=r"two groups.*c_small=0\.33"):
        _ = m.noise


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_is_finite_looks_at_every_field(field, value):
    values = [2.0, 1.0, 1.0, 0.5]
    assert Moments(*values).is_finite
    values[field] = value
    assert not Moments(*values).is_finite


@pytest.mark.parametrize(
    ("shares", "sizes"), [([-1, 2], [1, 1]), ([0, 0], [1, 1]), ([1, 1], [0, 1])]
)
def test_nonsense_groups_are_refused(shares, sizes):
    with pytest.raises(ValueError, match="shares must be >= 0"):
        from_contributions([1.0, 1.0], shares, sizes, 1.0)


def test_groups_without_examples_are_passed_over():
    with_empty = from_contributions([4.0, 0.0, 1.0], [1, 0, 1], [1, 1, 1], 9.0)
    assert with_empty == from_contributions([4.0, 1.0], [1, 1], [1, 1], 9.0)
