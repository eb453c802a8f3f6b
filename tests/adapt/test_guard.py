"""The guard against a loss that jumps: when it fires, what it does, and that it heals."""

import math
import random

import pytest

from lightning_noise.adapt.actions import Say, SetRateFactor
from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.guard import HEALS, REST, Guard, has_jumped
from lightning_noise.adapt.least_time import LeastTime
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.core.estimate import NoiseEstimate


def test_a_jump_halves_the_factor_and_it_heals():
    guard = Guard().after([1.0] * 100, 4.0)
    assert guard.bounded(4.0) == 4.0
    while guard.jumps == 0:
        guard = guard.after([3.0], 4.0)
    assert (guard.bounded(4.0), guard.rests) == (2.0, REST)
    guard = guard.after([1.0] * (REST - 1), 4.0)
    assert (guard.bounded(4.0), guard.rests) == (2.0, 1)
    guard = guard.after([1.0] * (HEALS // 2), 4.0)
    assert guard.bounded(4.0) == pytest.approx(2.0 * 2**0.5, rel=0.01)
    guard = guard.after([1.0] * HEALS, 4.0)
    assert guard.ceiling is None and guard.rests == 0


def test_the_factor_never_falls_below_the_user_s_rate():
    guard = Guard()
    for _ in range(5):
        guard = guard.after([math.nan], 4.0)
    assert guard.bounded(4.0) == 1.0 and guard.jumps == 5


def test_what_is_not_finite_counts_at_once():
    assert has_jumped([math.inf]) and has_jumped([1.0, math.nan])


@pytest.mark.parametrize("growth", [1.05, 1.5, 4.0])
def test_a_loss_that_grows_in_every_step_is_seen(growth):
    """The mean of its last 25 values has a standard error of about its own size."""
    draws = random.Random(1)
    calm = [draws.uniform(0.8, 1.2) for _ in range(100)]
    guard = Guard().after(calm, 4.0)
    for step in range(40):
        guard = guard.after([growth**step], 4.0)
    assert guard.jumps == 1


def test_a_huge_loss_is_a_jump_and_no_error():
    """The square of a loss beyond 1e154 is not finite."""
    assert has_jumped([1.0] * 75 + [1e160, 3e160] * 12 + [1e160])


@pytest.mark.parametrize(("level", "jumps"), [(1.4, False), (1.6, True)])
def test_it_takes_half_as_much_again(level, jumps):
    assert has_jumped([1.0] * 75 + [level] * 25) is jumps


def test_a_rise_within_the_noise_is_no_jump():
    losses = [10.0 * (i % 7 == 0) for i in range(75)] + [12.0 * (i % 6 == 0) for i in range(25)]
    assert not has_jumped(losses)


def test_noise_alone_rarely_fires():
    """Log-normal losses (standard deviation 1 in the logarithm), independent from step to step."""
    draws = random.Random(0)
    steps = 20_000
    guard = Guard().after((draws.lognormvariate(0, 1) for _ in range(steps)), 4.0)
    assert guard.jumps <= 2


def running(factor=2.0):
    machine = Adaptation(AdaptiveBatchSize(LeastTime(step_time=(1e3, 1)), learning_rate="linear"))
    machine.begin_fit(Mark(0, 0.0), BatchPlan(4, 1, 1))
    machine.begin_epoch(0, 100)
    grow(machine, 4, 50)
    machine.begin_epoch(1, 50)
    assert machine.rate_factor == factor
    return machine


def grow(machine, size, steps):
    estimate = NoiseEstimate(1000.0, 900.0, 1100.0, 1.0, 1000.0, True, 400, 100.0)
    now = Measurement(estimate, size, steps, size * steps, None, 1000.0)
    return machine.end_epoch(now, Limits())


def test_in_a_run_the_factor_falls_and_growth_rests():
    machine = running()
    assert machine.losses([1.0] * 100) == []
    said, factor = machine.losses([2.0] * 25)
    assert isinstance(said, Say) and "the loss jumped: learning-rate factor 1" in said.text
    assert factor == SetRateFactor(1.0)
    assert grow(machine, 8, 100) == []
    machine.losses([1.0] * REST)
    assert grow(machine, 8, 300) != []


def test_the_guard_is_in_the_state():
    machine = running()
    machine.losses([1.0] * 100 + [2.0] * 25 + [1.0] * 7)
    again = Adaptation(machine.settings)
    again.load_state_dict(machine.state_dict())
    assert again.state.guard == machine.state.guard and again.rate_factor == 1.0
    more = [1.0] * 300
    assert again.losses(more) == machine.losses(more) and again.state == machine.state


def test_it_can_be_left_out():
    machine = Adaptation(AdaptiveBatchSize(guard=False))
    machine.begin_fit(Mark(0, 0.0), BatchPlan(4, 1, 1))
    assert machine.losses([math.nan]) == [] and not machine.watches_losses
