"""The size of least time: known answers, each bound, going back, and what it does in a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_noise.adapt.adaptation import Adaptation
from lightning_noise.adapt.adaptation_state import Mark
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.least_time import LONG_TIMED, LeastTime
from lightning_noise.adapt.policy import TrackNoiseScale
from lightning_noise.adapt.run_policy import Left, Situation
from lightning_noise.adapt.size_plan import BatchPlan, Bounds
from lightning_noise.adapt.step_times import StepTimes
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.tradeoff import exchange_rate_size, time_cost


def seen(low, *, noise_scale=None, resolved=True, n_eff=100.0):
    if not resolved:
        return NoiseEstimate(None, low, None, -0.1, low, False, 400, n_eff)
    middle = noise_scale or low
    return NoiseEstimate(middle, low, 1.2 * middle, 1.0, middle, True, 400, n_eff)


def timed(**medians):
    """Step times by size, given as ``b16=80.0``."""
    times = StepTimes()
    for name, seconds in medians.items():
        times = times.adding(int(name[1:]), [seconds] * LONG_TIMED)
    return times


def at(start, **given):
    return Situation(start, **given)


def test_the_known_answer_of_fixed_and_growing_time():
    """t = 64 + B and R = 400: best at 160, where the cost is 784."""
    assert exchange_rate_size(64, 400) == 160
    assert time_cost(64 + 160, 400, 160) == 784
    costs = [time_cost(64 + size, 400, size) for size in (16, 512)]
    assert costs == [2080, 224 * 4.5 + 18]  # 1026 at 512


@given(
    fixed=st.floats(1.0, 1e4),
    per_example=st.floats(0.01, 10.0),
    noise_scale=st.floats(10.0, 1e5),
    size=st.integers(1, 4096),
)
def test_growing_pays_exactly_below_the_elasticity(fixed, per_example, noise_scale, size):
    """The slope of the cost has the sign of η − R/(R + B)."""
    elasticity = per_example * size / (fixed + per_example * size)
    share = noise_scale / (noise_scale + size)
    best = exchange_rate_size(fixed / per_example, noise_scale)
    if not math.isclose(size, best, rel_tol=1e-9):
        assert (elasticity < share) == (size < best)


def test_from_16_it_doubles_to_the_size_next_to_the_best_one():
    policy = LeastTime(waste=10, step_time=(64, 1))
    sizes = [16]
    for _ in range(10):
        sizes.append(policy(seen(400), sizes[-1]).global_size)
    # at 128 the cost is 792, at 256 it would be 820
    assert sizes == [16, 32, 64, 128, *[128] * 7]


@pytest.mark.parametrize(("waste", "most"), [(0.25, 64), (0.5, 128), (1.0, 256), (2.0, 512)])
def test_waste_bounds_the_size_by_the_lower_end(waste, most):
    policy = LeastTime(waste=waste, step_time=(1e6, 1))
    size = 16
    for _ in range(10):
        size = policy(seen(260, noise_scale=1000), size).global_size
    assert size == most


def test_with_one_size_timed_half_of_the_time_grows():
    policy = LeastTime()
    grow = policy.decide(seen(400), 16, at(16, times=timed(b16=80.0)))
    assert grow.global_size == 32 and "share of step time 0.5" in grow.reason
    # (1 + 400/16)/(1.5 · (1 + 400/32)) − 1
    assert "predicted gain 28 %" in grow.reason


def test_with_two_sizes_timed_the_share_is_that_of_the_line_through_them():
    policy = LeastTime()
    grow = policy.decide(seen(400), 32, at(16, times=timed(b16=80.0, b32=96.0)))
    assert grow.global_size == 64 and "share of step time 0.333" in grow.reason
    nearly_in_proportion = at(16, times=timed(b16=16.0, b32=30.4))
    kept = policy.decide(seen(400), 32, nearly_in_proportion)
    assert kept.global_size == 32 and "share of step time 0.947, of noise 0.926" in kept.reason


def test_it_waits_for_the_step_times_of_a_new_size():
    times = timed(b16=80.0, b32=96.0)
    kept = LeastTime().decide(seen(4000), 64, at(16, times=times))
    assert kept.reason.endswith("but steps of the current size are not timed yet")


def test_it_goes_back_where_the_measured_cost_rose_and_stays_until_the_noise_doubles():
    policy = LeastTime()
    times = timed(b16=80.0, b32=160.0)
    back = policy.decide(seen(380, noise_scale=400), 32, at(16, times=times))
    assert back.global_size == 16
    assert "a step takes 2 times as long as at 16 and does the work of 1.93" in back.reason
    left = Left(32, 400.0)
    stays = policy.decide(seen(790), 16, at(16, times=times, left=left))
    assert stays.global_size == 16 and "32 took longer when the noise scale was 400" in stays.reason
    again = policy.decide(seen(810), 16, at(16, times=times, left=left))
    assert again.global_size == 32


def test_steps_that_are_slow_for_a_short_while_send_no_run_back():
    """Where another program takes the machine: as many steps as between two decisions."""
    policy = LeastTime()
    busy = timed(b16=80.0).adding(32, [400.0] * 20)
    assert policy.decide(seen(4000), 32, at(16, times=busy)).global_size == 32
    longer = busy.adding(32, [400.0] * 20)
    assert policy.decide(seen(4000), 32, at(16, times=longer)).global_size == 16


def test_waste_is_judged_by_the_noise_scale_that_the_new_size_will_have():
    """At a rate that grows by the root of two per doubling, R grows by that root as well."""
    policy = LeastTime(step_time=(1000.0, 1.0))
    assert policy.decide(seen(390), 128, at(16)).global_size == 128
    root = at(16, rate_ratio=lambda old, new: (new / old) ** 0.5)
    assert policy.decide(seen(390), 128, root).global_size == 256  # 0.5 · 390 · 2 / 1.41 = 276
    kept = policy.decide(seen(350), 128, root)
    expected = "but 256 is above 0.5 · 495 (waste=0.5), the lower end as expected there"
    assert kept.global_size == 128 and kept.reason.endswith(expected)
    linear = at(16, rate_ratio=lambda old, new: new / old)
    assert policy.decide(seen(390), 128, linear).global_size == 128


def test_an_unresolved_cost_is_no_reason_to_go_back():
    """Without an upper end twice the size does twice the work at most; noisy times do not count."""
    policy = LeastTime()
    slower = at(16, times=timed(b16=80.0, b32=158.0))
    assert policy.decide(seen(380, resolved=False), 32, slower).reason.startswith("keep")
    noisy = StepTimes().adding(16, [60, 70, 80, 90, 100, 80]).adding(32, [100, 130, 160, 190, 160])
    assert policy.decide(seen(380), 32, at(16, times=noisy)).reason.startswith("keep")


def test_it_never_goes_below_the_start():
    times = timed(b8=10.0, b16=200.0)
    assert LeastTime().decide(seen(400), 16, at(16, times=times)).global_size >= 16


def test_more_accumulation_saves_no_time():
    for policy in (LeastTime(), LeastTime(step_time=(64, 1))):
        kept = policy.decide(seen(4000), 64, at(16, times=timed(b64=1.0), accumulates=True))
        assert kept.global_size == 64 and "more accumulation saves no time" in kept.reason


@pytest.mark.parametrize(
    ("estimate", "data_size", "words"),
    [
        (seen(900.0), 2000.0, "says nothing about new data"),
        (seen(900.0, resolved=False), 2000.0, "says nothing about new data"),
        (seen(900.0, n_eff=9.0), None, "9.0 effective steps are measured"),
        (NoiseEstimate(None, None, None, 1.0, 1.0, False, 20, 20.0), None, "not measured yet"),
    ],
)
def test_it_does_not_grow_on_numbers_that_mean_nothing(estimate, data_size, words):
    kept = LeastTime().decide(estimate, 16, at(16, data_size=data_size))
    assert kept.global_size == 16 and words in kept.reason


def test_max_change_allows_several_doublings_while_each_pays():
    policy = LeastTime(waste=10, max_change=8, step_time=(64, 1))
    assert policy(seen(400), 16).global_size == 128
    assert policy(seen(400), 64).global_size == 128
    assert LeastTime(waste=10, max_change=5, step_time=(64, 1))(seen(400), 16).global_size == 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"waste": 0}, "waste must be a finite number > 0"),
        ({"min_gain": -0.1}, "min_gain must be a finite number >= 0"),
        ({"max_change": 1.5}, "max_change must be a finite number >= 2"),
        ({"step_time": (0, 0)}, "not both 0"),
        ({"step_time": (-1, 1)}, "step_time's a must be a finite number >= 0"),
        ({"step_time": 3}, "step_time must be None or"),
    ],
)
def test_bad_arguments_are_named(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        LeastTime(**given)


# In a run


def measured(size, steps, estimate):
    noise_scale = estimate.noise_scale
    return Measurement(estimate, size, steps, size * steps, None, noise_scale)


def play(policy, noise_scale, step_time, epochs=12, bounds=Bounds()):
    """Sizes of the epochs of a run whose steps take ``step_time(size)``, and the machine."""
    machine = Adaptation(AdaptiveBatchSize(policy))
    machine.begin_fit(Mark(0, 0.0), BatchPlan(16, 1, 1))
    sizes = []
    for epoch in range(epochs):
        machine.begin_epoch(epoch, 100)
        size = machine.state.sizes.current.global_size
        sizes.append(size)
        machine.timed([step_time(size) * (1 + 0.01 * (i % 3)) for i in range(20)])
        now = measured(size, 50 * (epoch + 1), seen(noise_scale))
        machine.end_epoch(now, Limits(bounds))
    return sizes, machine


def test_a_run_finds_the_size_from_its_own_step_times():
    sizes, machine = play(LeastTime(waste=10), 400, lambda size: (64 + size) / 1000)
    assert sizes == [16, 32, 64, *[128] * 9]
    assert "LeastTime(step_time=(0.0646, 0.00101))" in machine.summary()[-1]


def test_a_run_goes_back_from_a_size_that_does_not_fit_and_does_not_try_it_again():
    """Where steps of 64 and more take three times as long, as when a cache is full."""
    sizes, machine = play(LeastTime(waste=10), 4000, lambda size: 1.0 + 2.0 * (size > 32))
    assert sizes == [16, 32, 64, 64, *[32] * 8]
    assert machine.state.left == Left(64, 4000.0)


def test_a_rule_of_the_user_s_is_not_asked_for_a_change_to_the_same_size():
    asked = []

    def rule(old, new, estimate):
        asked.append((old, new))
        return 1.0

    machine = Adaptation(AdaptiveBatchSize(LeastTime(), learning_rate=rule))
    machine.begin_fit(Mark(0, 0.0), BatchPlan(16, 1, 1))
    machine.begin_epoch(0, 100)
    machine.end_epoch(measured(16, 50, seen(400)), Limits())
    assert asked and all(old != new for old, new in asked)


def test_a_run_does_not_begin_to_accumulate():
    bounds = Bounds(max_local_size=32)
    sizes, _ = play(LeastTime(waste=10), 4000, lambda size: 1.0, bounds=bounds)
    assert sizes == [16, *[32] * 11]


def test_the_state_keeps_times_and_the_size_left():
    _, machine = play(LeastTime(waste=10), 4000, lambda size: 1.0 + 2.0 * (size > 32))
    again = Adaptation(machine.settings)
    again.load_state_dict(machine.state_dict())
    assert again.state == machine.state
    assert again.state.times.sizes == [16, 32, 64]


def test_without_the_clock_decisions_do_not_depend_on_step_times():
    policy = LeastTime(step_time=(64, 1))
    slow, machine = play(policy, 400, lambda size: 5.0 * size)
    fast, _ = play(policy, 400, lambda size: 1.0)
    assert slow == fast == [16, 32, 64, *[128] * 9]
    assert not machine.needs_clock and len(machine.summary()) == 3


def test_the_flag_means_least_time():
    assert AdaptiveBatchSize().rule == LeastTime()


def test_its_averages_decay_by_steps():
    assert not AdaptiveBatchSize().averages_by_examples
    assert AdaptiveBatchSize(TrackNoiseScale()).averages_by_examples
    assert not AdaptiveBatchSize(TrackNoiseScale(), advise_only=True).averages_by_examples


@pytest.mark.parametrize("policy", [LeastTime(), LeastTime(step_time=(0.01, 1e-5))])
def test_the_pair_changes_nothing_but_the_clock(policy):
    assert AdaptiveBatchSize(policy).every == 20
    assert AdaptiveBatchSize(policy, every="epoch").every == "epoch"
    assert AdaptiveBatchSize(policy, advise_only=True).every == "epoch"
