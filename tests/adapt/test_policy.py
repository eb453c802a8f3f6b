"""Each rule of a decision as a table of cases."""

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_noise.adapt.policy import BatchSizePolicy, Decision, ExchangeRate, TrackNoiseScale
from lightning_noise.adapt.policy_in_run import starting_from
from lightning_noise.core.estimate import NoiseEstimate

WIDE = {"max_change": 1e6}


def seen(b, low=None, high=None, n_eff=100.0):
    """An estimate; ``b=None`` is one that is not resolved."""
    resolved = b is not None
    if resolved:
        low, high = b * 0.9 if low is None else low, b * 1.1 if high is None else high
    return NoiseEstimate(b, low, high, 1.0 if resolved else -0.1, b or 100.0, resolved, 500, n_eff)


class Case(NamedTuple):
    name: str
    policy: BatchSizePolicy
    estimate: NoiseEstimate
    size: float
    expected: int
    reason: str


CASES = [
    # ---- the interval must exclude the current size
    Case(
        "grows",
        TrackNoiseScale(),
        seen(1843.0, 1500, 2260),
        1024,
        1843,
        "grow: b_simple is 1843 [1500, 2260], predicted gain 9 %",
    ),
    Case(
        "holds the size",
        TrackNoiseScale(),
        seen(400.0, 99, 600),
        100,
        100,
        "keep: b_simple is 400 [99, 600], which does not",
    ),
    Case("just excludes it", TrackNoiseScale(), seen(400.0, 101, 600), 100, 200, "grow: "),
    Case("shrinks", TrackNoiseScale(shrink=True), seen(100.0), 150, 150, "keep: "),
    Case(
        "shrinks far",
        TrackNoiseScale(shrink=True),
        seen(100.0),
        160,
        100,
        "shrink: b_simple is 100 [90, 110], predicted gain 6 %",
    ),
    Case("upper end holds", TrackNoiseScale(shrink=True), seen(100.0, 50, 161), 160, 160, "keep: "),
    # ---- direction
    Case(
        "may not shrink",
        TrackNoiseScale(),
        seen(10.0),
        160,
        160,
        "keep: b_simple is 10 [9, 11], but shrinking is not allowed",
    ),
    # ---- enough steps
    Case(
        "nine steps",
        TrackNoiseScale(),
        seen(1000.0, n_eff=9.9),
        10,
        10,
        "keep: 9.9 effective steps are measured, a decision needs",
    ),
    Case("ten steps, rounded", TrackNoiseScale(), seen(1000.0, n_eff=10 - 1e-12), 10, 20, "grow: "),
    Case(
        "nothing measured",
        TrackNoiseScale(),
        seen(None),
        10,
        10,
        "keep: the noise scale is not measured yet",
    ),
    # ---- predicted gain: a factor 1.558 away is 5 %
    Case(
        "1.55 away",
        TrackNoiseScale(),
        seen(155.0),
        100,
        100,
        "keep: b_simple is 155 [140, 170], but the predicted gain of 5 % is",
    ),
    Case("1.57 away", TrackNoiseScale(), seen(157.0), 100, 157, "grow: "),
    Case(
        "no least gain",
        TrackNoiseScale(min_gain=0),
        seen(112.0),
        100,
        112,
        "grow: b_simple is 112 [101, 123], predicted gain 0.3 %",
    ),
    Case("greater least gain", TrackNoiseScale(min_gain=0.2), seen(200.0), 100, 100, "keep: "),
    Case("0.64 away", TrackNoiseScale(shrink=True), seen(65.0), 100, 100, "keep: "),
    # ---- not resolved: the lower end is the target, for growing only
    Case(
        "unresolved",
        TrackNoiseScale(),
        seen(None, 180),
        100,
        180,
        "grow: b_simple is at least 180, predicted gain 9 %",
    ),
    Case(
        "a value without an upper end",
        TrackNoiseScale(),
        seen(400.0, 180)._replace(high=None, resolved=False),
        100,
        180,
        "grow: b_simple is at least 180, predicted gain 9 %",
    ),
    Case(
        "unresolved below",
        TrackNoiseScale(shrink=True),
        seen(None, 20),
        100,
        100,
        "keep: b_simple is at least 20, which does not",
    ),
    # ---- greatest change
    Case("doubles at most", TrackNoiseScale(), seen(1e5), 16, 32, "grow: "),
    Case(
        "quarters at most",
        TrackNoiseScale(shrink=True, max_change=4),
        seen(2.0),
        101,
        26,
        "shrink: ",
    ),
    Case(
        "cap on a small size",
        TrackNoiseScale(max_change=1.5),
        seen(1e3),
        1,
        1,
        "keep: b_simple is 1000 [900, 1100], but there is no integer",
    ),
    Case(
        "a slow climb still counts its goal",
        TrackNoiseScale(max_change=1.1),
        seen(1e3),
        100,
        110,
        "grow: ",
    ),
    # ---- limits
    Case(
        "greatest",
        TrackNoiseScale(greatest=170),
        seen(1e4),
        100,
        170,
        "grow: b_simple is 10000 [9000, 11000], predicted gain 68 %",
    ),
    Case(
        "at greatest",
        TrackNoiseScale(greatest=100),
        seen(1e4),
        100,
        100,
        "keep: b_simple is 10000 [9000, 11000], but the current size is at the",
    ),
    Case("above greatest", TrackNoiseScale(greatest=64), seen(1e4), 100, 100, "keep: "),
    Case(
        "shrinks to greatest",
        TrackNoiseScale(greatest=30, shrink=True),
        seen(40.0),
        100,
        50,
        "shrink: ",
    ),
    Case("least", TrackNoiseScale(least=60, shrink=True), seen(1.0), 100, 60, "shrink: "),
    Case(
        "at least",
        TrackNoiseScale(least=100, shrink=True),
        seen(1.0),
        100,
        100,
        "keep: b_simple is 1 [0.9, 1.1], but the current size is at the",
    ),
    Case("grows to least", TrackNoiseScale(least=90), seen(80.0), 48, 90, "grow: "),
    Case("least 1", TrackNoiseScale(shrink=True, **WIDE), seen(0.2), 8, 1, "shrink: "),
    # ---- rounding never passes a limit
    Case("rounds down growing", TrackNoiseScale(), seen(199.9), 100, 199, "grow: "),
    Case("rounds up shrinking", TrackNoiseScale(shrink=True), seen(50.1), 100, 51, "shrink: "),
    Case("a size that is not whole", TrackNoiseScale(), seen(100.0), 99.6, 100, "keep: "),
    # ---- other targets
    Case(
        "fraction",
        TrackNoiseScale(0.5),
        seen(400.0),
        100,
        200,
        "grow: b_simple is 400 [360, 440], target 200, predicted gain 12 %",
    ),
    Case(
        "fraction holds",
        TrackNoiseScale(0.25),
        seen(400.0),
        100,
        100,
        "keep: b_simple is 400 [360, 440], target 100, which does not",
    ),
    Case(
        "exchange rate",
        ExchangeRate(400),
        seen(100.0),
        100,
        200,
        "grow: b_simple is 100 [90, 110], target 200, predicted gain 11 %",
    ),
    Case("exchange rate at rate = b", ExchangeRate(157), seen(157.0), 100, 157, "grow: "),
    Case("exchange rate just short", ExchangeRate(155), seen(155.0), 100, 100, "keep: "),
    Case(
        "flat cost",
        ExchangeRate(1e4),
        seen(100.0),
        500,
        500,
        "keep: b_simple is 100 [90, 110], target 1000, but the predicted gain of 4 %",
    ),
    Case(
        "exchange rate unresolved",
        ExchangeRate(100),
        seen(None, 400),
        100,
        200,
        "grow: b_simple is at least 400, target 200",
    ),
    Case(
        "exchange rate shrinks", ExchangeRate(100, shrink=True), seen(100.0), 400, 200, "shrink: "
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decision(case):
    decision = case.policy(case.estimate, case.size)
    assert decision.global_size == case.expected
    assert decision.reason.startswith(case.reason), decision.reason
    assert isinstance(decision, Decision) and isinstance(decision.global_size, int)


@pytest.mark.parametrize(
    "policy", [TrackNoiseScale(0.7), ExchangeRate(300.0)], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("b", [3.0, 300.0, 40000.0])
def test_cost_is_least_at_the_target(policy, b):
    target = policy.target(b)
    assert policy.cost(b, target) < min(
        policy.cost(b, target * 0.99), policy.cost(b, target * 1.01)
    )


@given(
    b=st.floats(0.1, 1e6),
    size=st.integers(1, 100_000),
    least=st.integers(1, 100),
    greatest=st.integers(100, 10_000),
    max_change=st.floats(1.01, 8),
    shrink=st.booleans(),
    exchange=st.booleans(),
)
def test_no_decision_passes_a_limit(b, size, least, greatest, max_change, shrink, exchange):
    options = {"least": least, "greatest": greatest, "max_change": max_change, "shrink": shrink}
    policy = ExchangeRate(b, **options) if exchange else TrackNoiseScale(**options)
    new, reason = policy(seen(b), size)
    verb = reason.split(":")[0]
    assert (new > size, new < size, new == size) == (
        verb == "grow",
        verb == "shrink",
        verb == "keep",
    )
    assert size / max_change <= new <= size * max_change
    if new > size:
        assert new <= greatest
    if new < size:
        assert shrink and new >= least
        assert new >= math.floor(policy.target(b)) or new <= greatest


def test_following_decisions_settles():
    policy, size, sizes = TrackNoiseScale(shrink=True), 16, []
    for _ in range(10):
        size = policy(seen(1000.0), size).global_size
        sizes.append(size)
    assert sizes[:6] == [32, 64, 128, 256, 512, 1000] and set(sizes[6:]) == {1000}


def test_least_none_is_the_starting_size():
    free = TrackNoiseScale(shrink=True)
    bound = starting_from(free, 64)
    assert (free(seen(1.0), 100).global_size, bound(seen(1.0), 100).global_size) == (50, 64)
    assert starting_from(TrackNoiseScale(least=8), 64).least == 8
    assert starting_from(ExchangeRate(5.0), 64) == ExchangeRate(5.0, least=64)

    def own(estimate, global_size):
        return Decision(7, "keep: my own rule")

    assert starting_from(own, 64) is own and isinstance(own, BatchSizePolicy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TrackNoiseScale(0),
            "fraction must be a finite number > 0; 1.0 is B_simple itself, got 0",
        ),
        (
            lambda: ExchangeRate(-1),
            "rate must be a finite number > 0, in examples per step, got -1",
        ),
        (lambda: ExchangeRate(math.inf), "rate must be"),
        (lambda: TrackNoiseScale(least=0), "least must be None or a finite number >= 1, got 0"),
        (lambda: TrackNoiseScale(greatest=0.5), "greatest must be None or"),
        (
            lambda: TrackNoiseScale(least=9, greatest=8),
            "least must not be above greatest, got least=9, greatest=8",
        ),
        (
            lambda: TrackNoiseScale(max_change=1),
            "max_change must be a finite number > 1; 2.0 doubles at most, got 1",
        ),
        (
            lambda: TrackNoiseScale(min_gain=-0.1),
            "min_gain must be a finite number >= 0; 0.05 is 5 %, got -0.1",
        ),
        (lambda: TrackNoiseScale()(seen(1.0), 0), "global_size must be a finite number > 0, got 0"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": "1"}, "fraction"),
        ({"shrink": 1}, "shrink must be a bool, got 1"),
        ({"max_change": True}, "max_change"),
    ],
)
def test_values_of_the_wrong_type(options, message):
    with pytest.raises(TypeError, match=message):
        TrackNoiseScale(**options)
