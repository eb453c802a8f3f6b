"""Batch sizes by a plan, with the noise scale as a check."""

import pytest

from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.run_policy import Situation
from lightning_noise.adapt.schedule_policies import BatchSizeRamp, BatchSizeWarmUp, seesaw
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.core.estimate import NoiseEstimate

UNMEASURED = NoiseEstimate(None, None, None, 1.0, 1.0, False, 0, 0.0)
SMALL = NoiseEstimate(50.0, 40.0, 60.0, 1.0, 50.0, True, 400, 100.0)


def play(policy, epochs=10, **given):
    """Sizes and factors of epochs of 1000 examples, from a size of 16."""
    machine = Adaptation(AdaptiveBatchSize(policy, **given))
    machine.begin_fit(Mark(0, 0.0), BatchPlan(16, 1, 1))
    sizes = []
    for epoch in range(epochs):
        machine.begin_epoch(epoch, 100)
        size = machine.state.sizes.current.global_size
        sizes.append((size, machine.rate_factor))
        now = Measurement(UNMEASURED, size, 100 * (epoch + 1), 1000.0 * (epoch + 1), None, None)
        machine.end_epoch(now, Limits())
    return sizes


def test_warm_up_doubles_at_equal_distances():
    sizes = play(BatchSizeWarmUp(greatest=130, examples=6000), learning_rate="sqrt")
    assert sizes == [
        *[(16, 1.0)] * 2,
        *[(32, 2**0.5)] * 2,
        *[(64, 2.0)] * 2,
        *[(128, 8**0.5)] * 4,
    ]


def test_a_ramp_keeps_the_rate_or_lets_it_fall_by_the_root():
    plan = BatchSizeRamp([3000, 5000], factor=4)
    assert play(plan, 7, learning_rate=None) == [(16, 1)] * 3 + [(64, 1)] * 2 + [(256, 1)] * 2
    factors = [factor for _, factor in play(plan, 7, learning_rate=seesaw)]
    assert factors == [1.0] * 3 + [0.5] * 2 + [0.25] * 2


def test_a_plan_that_outruns_the_noise_scale_says_so():
    plan = BatchSizeRamp([1000])
    grow = plan.decide(SMALL, 32, Situation(32, 1000.0))
    assert grow == (
        64,
        "grow: the plan after 1000 examples; it outruns the noise scale, which is at most 60: "
        "larger steps gain little",
    )
    assert plan.decide(SMALL, 16, Situation(16, 1000.0)).reason == (
        "grow: the plan after 1000 examples"
    )
    assert plan.decide(SMALL, 64, Situation(32, 1000.0)).global_size == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchSizeWarmUp(0, 100), "greatest must be a finite number >= 1, got 0"),
        (lambda: BatchSizeWarmUp(64, 0), "examples must be a finite number > 0, got 0"),
        (lambda: BatchSizeRamp([200, 100]), "milestones must be increasing numbers"),
        (lambda: BatchSizeRamp(100), "milestones must be increasing numbers"),
        (lambda: BatchSizeRamp([100], factor=1), "factor must be a finite number > 1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
