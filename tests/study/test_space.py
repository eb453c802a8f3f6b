"""Search spaces, and the points of the search in them."""

import math

import optuna
import pytest
from optuna.distributions import FloatDistribution

from lightning_noise.study import (
    CentredLearningRate,
    Choice,
    DecaySteps,
    LogUniform,
    Momentum,
    Uniform,
)
from lightning_noise.study.space import (
    as_given,
    distributions,
    for_optuna,
    on_boundary,
    points,
    position,
)

SPACE = {
    "learning_rate": (0.01, 1.0),
    "momentum": Uniform(0.0, 0.9),
    "schedule": ["constant", "cosine"],
}


def test_the_points_depend_on_the_seed_alone_and_are_a_prefix_of_longer_searches():
    space = distributions(SPACE, 32)
    assert points(space, 8, seed=3) == points(space, 16, seed=3)[:8]
    assert points(space, 8, seed=3) != points(space, 8, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_the_points_fill_the_space_evenly(seed):
    """Of the first 16 points of a Sobol sequence, at most one lies in each sixteenth of a range.

    The search leaves out the first.
    """
    space = distributions(SPACE, 32)
    found = points(space, 15, seed)
    for name in ("learning_rate", "momentum"):
        cells = [int(16 * position(space[name], point[name])) for point in found]
        assert len(set(cells)) == 15, cells
    assert 6 <= sum(point["schedule"] == "cosine" for point in found) <= 9


def test_the_centre_follows_the_rule():
    rule = CentredLearningRate(eps_max=0.4, b=100, alpha=0.5, spread=4)
    for size in (10, 100, 1000):
        dist = rule.at(size)
        assert math.sqrt(dist.low * dist.high) == pytest.approx(0.4 / math.sqrt(1 + 100 / size))
        assert dist.high / dist.low == pytest.approx(16)


@pytest.mark.parametrize(
    ("rate", "momentum", "told"),
    [(0.1, 0.45, False), (0.0157, 0.45, True), (0.65, 0.45, True), (0.1, 0.85, True)],
)
def test_the_outer_tenth_is_the_boundary(rate, momentum, told):
    """A tenth of the range 0.01 … 1 in the logarithm is a factor of 1.585; of 0 … 0.9, 0.09."""
    parameters = {"learning_rate": rate, "momentum": momentum, "schedule": "constant"}
    assert on_boundary(distributions(SPACE, 32), parameters) is told


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LogUniform(0.0, 1.0), ValueError, r"0 < low < high, got \(0.0, 1.0\).*Uniform"),
        (lambda: LogUniform("a", "b"), ValueError, r"0 < low < high, got \('a', 'b'\)"),
        (lambda: Uniform(0.0, None), ValueError, r"finite low < high, got \(0.0, None\)"),
        (lambda: Uniform(1.0, 1.0), ValueError, "finite low < high"),
        (lambda: Choice(()), ValueError, "one or more plain values"),
        (lambda: Choice((object,)), ValueError, "one or more plain values"),
        (
            lambda: CentredLearningRate(eps_max=0.0, b=1),
            ValueError,
            "eps_max of CentredLearningRate must be a number > 0",
        ),
        (
            lambda: CentredLearningRate(eps_max=1.0, b=1, spread=1),
            ValueError,
            "spread of CentredLearningRate",
        ),
        (lambda: Momentum(0.5, 1.0), ValueError, r"0 <= low < high < 1, got \(0.5, 1.0\)"),
        (lambda: DecaySteps(s_min=0, b=1), ValueError, "s_min of DecaySteps must be a number > 0"),
        (
            lambda: DecaySteps(s_min=1, b=1, spread=1),
            ValueError,
            "spread of DecaySteps must be a factor > 1",
        ),
        (
            lambda: distributions({"momentum": 0.9}, 32),
            TypeError,
            r"search_space\['momentum'\] must be .* got 0.9",
        ),
    ],
)
def test_bad_ranges_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_range_beside_a_choice_is_quiet(caplog):
    space = distributions({"learning_rate": [0.5], "weight_decay": Uniform(0, 1)}, 16)
    optuna.logging.enable_propagation()
    try:
        found = points(space, 4, 7)
    finally:
        optuna.logging.disable_propagation()
    assert caplog.records == []
    assert len({one["learning_rate"] for one in found}) == 1
    assert len({one["weight_decay"] for one in found}) == 4


def test_a_momentum_is_searched_in_the_logarithm_of_its_distance_from_one():
    space = distributions({"learning_rate": (0.01, 1.0), "momentum": Momentum(0.0, 0.99)}, 32)
    assert space["1 - momentum"] == FloatDistribution(0.01, 1.0, log=True)
    found = [as_given(point)["momentum"] for point in points(space, 15, seed=0)]
    # two decades of 1 - momentum, of which each sixteenth has one point at most
    cells = [int(-8 * math.log10(1 - momentum)) for momentum in found]
    assert len(set(cells)) == 15
    assert sum(momentum > 0.9 for momentum in found) in (7, 8)


def test_optuna_is_given_what_was_searched_also_beyond_its_range():
    space = distributions({"learning_rate": (0.01, 1.0), "momentum": Momentum(0.0, 0.99)}, 32)
    point, ranges = for_optuna({"learning_rate": 2.0, "momentum": 0.75}, space)
    assert point == {"1 - momentum": 0.25, "learning_rate": 2.0}
    assert ranges["learning_rate"] == FloatDistribution(0.01, 2.0, log=True)
    assert ranges["1 - momentum"] == space["1 - momentum"]


def test_decay_steps_follow_the_batch_size_as_the_steps_to_a_goal_do():
    rule = DecaySteps(s_min=100, b=64, spread=4)
    for size in (8, 64, 512):
        dist = rule.at(size)
        assert math.sqrt(dist.low * dist.high) == pytest.approx(100 * (1 + 64 / size))
        assert dist.high / dist.low == pytest.approx(16)
