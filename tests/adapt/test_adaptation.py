"""The machine that adapts: its actions, event by event, and that its state is all it knows."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noise.adapt.actions import (
    ChangeInside,
    MeasureSizeAnew,
    Say,
    SetAccumulation,
    SetBatch,
    SetPace,
    SetRateFactor,
    Warn,
)
from lightning_noise.adapt.adaptation import AboveMaxLocalSizeError, Adaptation
from lightning_noise.adapt.adaptation_state import Mark, State
from lightning_noise.adapt.adaptive_settings import WITHIN_EPOCH, AdaptiveBatchSize
from lightning_noise.adapt.decisions import Limits, Measurement
from lightning_noise.adapt.policy import Decision, TrackNoiseScale
from lightning_noise.adapt.size_plan import BatchPlan, Bounds
from lightning_noise.core.estimate import NoiseEstimate

START = BatchPlan(4, 1, 1)
BATCHES = 24  # of an epoch at the start


def script(following):
    """A policy: for each size the one that follows it; others are kept."""

    def decide(estimate, global_size):
        size = round(global_size)
        return Decision(following.get(size, size), f"grow: script at {size}")

    return decide


def seen(noise_scale=1000.0, *, resolved=True):
    """A noise scale with an interval of ± 10 %, or without an upper end."""
    low, high = 0.9 * noise_scale, 1.1 * noise_scale
    if not resolved:
        return NoiseEstimate(None, low, None, -0.1, noise_scale, False, 400, 100.0)
    return NoiseEstimate(noise_scale, low, high, 1.0, noise_scale, True, 400, 100.0)


def measured(size, steps, examples=None, *, estimate=None, data_size=None):
    estimate = seen() if estimate is None else estimate
    used = size * steps if examples is None else examples
    return Measurement(estimate, size, steps, used, data_size, estimate.noise_scale)


def running(policy, start=START, **given):
    """A machine in its first epoch."""
    given = {"learning_rate": "linear", **given}
    machine = Adaptation(AdaptiveBatchSize(policy, **given))
    own = None if machine.settings.advise_only else start
    machine.begin_fit(Mark(0, 0.0), own)
    machine.begin_epoch(0, BATCHES)
    return machine


def test_a_fit_begins_with_the_sizes_of_the_user():
    machine = Adaptation(AdaptiveBatchSize())
    own = [SetBatch(Fraction(1)), SetAccumulation(2), SetRateFactor(1.0)]
    assert machine.begin_fit(Mark(0, 0.0), BatchPlan(4, 2, 1)) == own
    assert machine.begin_epoch(0, BATCHES) == [SetPace(1.0)]


def test_a_decision_at_the_end_of_an_epoch_waits_for_the_next():
    machine = running(script({4: 8}))
    plan = "local size 8 × accumulation 1 × 1 rank"
    said = f"global size 4 → 8 from epoch 1 on ({plan}), learning-rate factor 2; grow: script at 4"
    assert machine.end_epoch(measured(4, 24), Limits()) == [Say(said), SetBatch(Fraction(2))]
    assert (machine.waits, machine.rate_factor, machine.state.decided) == (True, 1.0, 8)
    assert machine.begin_epoch(1, batches=12) == [
        SetAccumulation(1),
        SetRateFactor(2.0),
        MeasureSizeAnew(),
        SetPace(2.0),
    ]
    assert (machine.waits, machine.rate_factor) == (False, 2.0)


def test_accumulation_takes_over_where_the_loaders_end():
    machine = running(script({4: 24}))
    said, batch = machine.end_epoch(measured(4, 24), Limits(Bounds(max_local_size=8)))
    assert "(local size 8 × accumulation 3 × 1 rank; max_local_size=8, so acc" in said.text
    assert batch == SetBatch(Fraction(2))
    assert machine.begin_epoch(1, batches=12)[:1] == [SetAccumulation(3)]
    assert machine.state.sizes.current == BatchPlan(8, 3, 1)


def test_the_factor_on_the_learning_rate_is_from_the_start():
    machine = running(script({4: 8, 8: 24, 24: 4}), learning_rate="sqrt")
    factors = []
    for epoch, (size, steps) in enumerate([(4, 24), (8, 36), (24, 40)], start=1):
        machine.end_epoch(measured(size, steps), Limits())
        machine.begin_epoch(epoch, 96 / machine.state.sizes.current.global_size)
        factors.append(machine.rate_factor)
    assert factors == [2**0.5, 6**0.5, 1.0]


def test_the_optimal_factor_takes_the_exponent_of_the_optimizer():
    for alpha in (1.0, 0.5):
        machine = running(script({4: 8}), learning_rate="optimal")
        machine.end_epoch(measured(4, 24), Limits(alpha=alpha))
        gain = (1 + 900 / 4) / (1 + 900 / 8)  # by the cautious end of the interval
        assert machine.state.following.rate_factor == pytest.approx(gain**alpha, rel=1e-12)


def test_what_is_kept_asks_for_nothing():
    machine = running(script({}))
    assert machine.end_epoch(measured(4, 24), Limits()) == []
    assert machine.begin_epoch(1, BATCHES) == [SetPace(1.0)]
    assert (machine.state.decided, machine.state.decided_at) == (4, 24)


def test_nothing_is_decided_before_a_step_is_measured():
    machine = running(script({4: 8}))
    assert machine.end_epoch(measured(4, 24)._replace(global_size=None), Limits()) == []
    assert machine.state.decided is None and machine.state.history == ()


@pytest.mark.parametrize(
    ("limits", "lines"),
    [
        (Limits(max_epochs=2), 1),
        (Limits(max_epochs=1), 0),
        (Limits(steps_left=1), 1),
        (Limits(steps_left=0), 0),
    ],
)
def test_a_decision_that_training_does_not_reach_is_planned_and_not_said(limits, lines):
    machine = running(script({4: 8}))
    actions = machine.end_epoch(measured(4, 24), limits)
    assert [type(action) for action in actions] == [Say] * lines + [SetBatch]


def test_advice_is_words_alone():
    machine = running(script({4: 8}), advise_only=True, within_epoch=True)
    said = "advice: global size 4 → 8, learning-rate factor 2; grow: script at 4"
    assert machine.inside_epoch(measured(4, 50), Limits()) == [Say(said)]
    assert machine.end_epoch(measured(4, 60), Limits()) == []  # the same advice
    assert machine.begin_epoch(1, BATCHES) == [] and machine.in_force() == []
    assert machine.end_epoch(measured(8, 84), Limits()) == [] and machine.state.decided == 8
    (kept,) = machine.end_epoch(measured(7, 90), Limits())
    assert kept == Say("advice: global size 7; grow: script at 7")
    assert machine.rate_factor == 1.0 and not machine.waits
    advice = "advice at the end (nothing was changed): a global size of 7 examples"
    assert machine.summary() == [advice]


def test_growth_stops_on_numbers_that_say_nothing_about_new_data():
    """Above a third of the data set, or without an upper end, once examples have been repeated."""
    for estimate in (seen(1000.0), seen(1000.0, resolved=False)):
        machine = running(TrackNoiseScale())
        repeated = measured(4, 24, estimate=estimate, data_size=2000.0)
        assert machine.end_epoch(repeated, Limits()) == []
        actions = machine.end_epoch(repeated._replace(data_size=None), Limits())
        assert actions[1:] == [SetBatch(Fraction(2))]


def test_the_least_size_of_a_policy_is_that_of_the_start():
    machine = running(TrackNoiseScale(shrink=True, max_change=4), start=BatchPlan(100, 1, 1))
    machine.end_epoch(measured(100, 10), Limits())
    machine.begin_epoch(1, 6)
    assert machine.state.sizes.current.global_size == 400
    machine.end_epoch(measured(400, 20, estimate=seen(5.0)), Limits())
    machine.begin_epoch(2, 24)
    assert machine.state.sizes.current.global_size == 100
    assert machine.end_epoch(measured(100, 30, estimate=seen(5.0)), Limits()) == []


def test_a_policy_sees_the_unit_that_is_measured():
    asked = []

    def policy(estimate, global_size):
        asked.append(global_size)
        return Decision(80, "grow: to eighty tokens")

    machine = Adaptation(AdaptiveBatchSize(policy), unit="tokens")
    machine.begin_fit(Mark(0, 0.0), START)
    machine.begin_epoch(0, BATCHES)
    said, batch = machine.end_epoch(measured(40.0, 24), Limits())
    assert asked == [40.0] and batch == SetBatch(Fraction(2))
    assert said.text.startswith("global size 40 → 80 from epoch 1 on (local size 8 ×")


def test_another_start_than_the_checkpoint_s_is_taken_with_a_warning():
    machine = running(script({4: 8}))
    machine.end_epoch(measured(4, 24), Limits())
    machine.begin_epoch(1, 12)
    actions = machine.begin_fit(Mark(24, 96.0), BatchPlan(6, 2, 1))
    warning = (
        "the batch size was adapted from a start of local size 4 × accumulation 1 × 1 rank, and "
        "this run begins with local size 6 × accumulation 2 × 1 rank. It starts from there again."
    )
    own = [SetBatch(Fraction(1)), SetAccumulation(2), SetRateFactor(1.0)]
    assert actions == [Warn(warning), MeasureSizeAnew(), *own]
    assert machine.begin_epoch(2, 16) == [SetPace(1.0)]  # an epoch at the new start is the measure
    assert [period[:3] for period in machine.state.history] == [(0, 4, 24)]


def test_a_micro_batch_above_the_limit_is_refused_also_a_checkpoint_s():
    machine = running(script({4: 16}))
    machine.end_epoch(measured(4, 24), Limits())
    small = Adaptation(AdaptiveBatchSize(max_local_size=10))
    small.load_state_dict(machine.state_dict())
    with pytest.raises(AboveMaxLocalSizeError, match=r"size=10 is below .* size of 16"):
        small.begin_fit(Mark(24, 96.0), START)
    with pytest.raises(AboveMaxLocalSizeError, match=r"size=10 is below .* size of 12"):
        Adaptation(small.settings).begin_fit(Mark(0, 0.0), BatchPlan(12, 1, 1))


def test_inside_an_epoch_the_micro_batch_changes_when_it_arrives():
    machine = running(script({4: 8}), every=20)
    assert not machine.decides_now(19) and machine.decides_now(20)
    said, change = machine.inside_epoch(measured(4, 20), Limits(max_epochs=1, resizes_inside=True))
    assert "4 → 8 within this epoch (local size 8 × accumulation 1" in said.text
    assert change == ChangeInside(Fraction(2), 1)
    assert machine.waits and not machine.decides_now(200)  # while a decision waits
    assert machine.arrives(measured(4, 24)) == [
        SetBatch(Fraction(2)),
        SetAccumulation(1),
        SetRateFactor(2.0),
        MeasureSizeAnew(),
        SetPace(2.0),
    ]
    assert machine.state.history[0][:4] == (0, 4, 24, 96)
    assert machine.arrives(measured(8, 30)) == []  # nothing waits
    assert not machine.decides_now(39) and machine.decides_now(40)


def test_inside_an_epoch_only_accumulation_changes_where_loaders_cannot():
    start = BatchPlan(4, 2, 1)
    machine = running(script({8: 12}), start=start, within_epoch=True)
    assert not machine.decides_now(WITHIN_EPOCH - 1) and machine.decides_now(WITHIN_EPOCH)
    said, change = machine.inside_epoch(measured(8, 50), Limits(max_epochs=1))
    assert "8 → 12 within this epoch (local size 4 × accumulation 3" in said.text
    assert change == ChangeInside(Fraction(1), 3)
    assert machine.arrives(measured(8, 51)) == [
        SetBatch(Fraction(1)),
        SetAccumulation(3),
        SetRateFactor(1.5),
        MeasureSizeAnew(),
        SetPace(1.5),
    ]
    assert machine.state.history[0][:4] == (0, 8, 51, 408)


def test_memory_that_does_not_hold_a_size_sends_it_back_for_good():
    machine = running(script({4: 8, 8: 16, 16: 32}))
    assert not machine.can_go_back
    for epoch, size in enumerate((4, 8), start=1):
        machine.end_epoch(measured(size, 24 * epoch, 96 * epoch), Limits())
        machine.begin_epoch(epoch, 12)
    assert machine.can_go_back
    warning = (
        "memory does not hold local size 16 × accumulation 1 × 1 rank, so training continues with "
        "local size 8 × accumulation 1 × 1 rank, and no micro-batch exceeds 8 from here on."
    )
    assert machine.out_of_memory(measured(16, 48, 192)) == [
        Warn(warning),
        SetBatch(Fraction(2)),
        SetAccumulation(1),
        SetRateFactor(2.0),
        MeasureSizeAnew(),
        SetPace(2.0),
    ]
    assert not machine.can_go_back and machine.out_of_memory(measured(8, 50)) == []
    again = Adaptation(machine.settings)
    again.load_state_dict(json.loads(json.dumps(machine.state_dict())))
    for one in (machine, again):
        said, batch = one.end_epoch(measured(8, 60, 288), Limits())
        assert "(local size 8 × accumulation 2 × 1 rank; max_local_size=8, so" in said.text
        assert batch == SetBatch(Fraction(2))


def test_a_size_that_shrank_has_nothing_to_go_back_to():
    machine = running(script({4: 2}))
    machine.end_epoch(measured(4, 24), Limits())
    machine.begin_epoch(1, 48)
    assert not machine.can_go_back


def test_a_decision_that_did_not_align_is_taken_anew_at_the_end_of_the_epoch():
    machine = running(script({4: 8}), within_epoch=True)
    machine.inside_epoch(measured(4, 50), Limits())
    assert machine.state.following.plan == BatchPlan(4, 2, 1)
    machine.end_epoch(measured(4, 60), Limits())
    assert machine.state.following.plan == BatchPlan(8, 1, 1)


def test_the_end_of_an_epoch_takes_back_a_decision_that_did_not_align():
    answers = iter([8, 4])
    machine = running(lambda estimate, size: Decision(next(answers), "a rule"), within_epoch=True)
    machine.inside_epoch(measured(4, 50), Limits())
    assert machine.waits
    assert machine.end_epoch(measured(4, 60), Limits()) == [] and not machine.waits
    assert machine.begin_epoch(1, BATCHES) == [SetPace(1.0)] and machine.state.decided == 4


def test_the_pace_of_data_without_end_is_that_of_the_sizes():
    machine = Adaptation(AdaptiveBatchSize(script({4: 12}), learning_rate=None))
    machine.begin_fit(Mark(0, 0.0), START)
    assert machine.begin_epoch(0, math.inf) == [SetPace(1.0)]
    machine.end_epoch(measured(4, 24), Limits())
    assert machine.begin_epoch(1, math.inf)[-1] == SetPace(3.0)


def test_a_policy_that_gives_no_decision_is_named():
    machine = running(lambda estimate, size: 32)
    with pytest.raises(TypeError, match=r"must return Decision.*but it returned 32"):
        machine.end_epoch(measured(4, 24), Limits())


def test_what_was_used_is_told_at_the_end():
    machine = running(script({4: 8}))
    machine.end_epoch(measured(4, 24), Limits())
    machine.begin_epoch(1, 12)
    machine.end_training(measured(8, 30, examples=96 + 48))
    sizes = "adaptive batch size: 4 (epoch 0), 8 (epoch 1)"
    used = "30 steps, 144 examples, learning-rate factor 2 at the end"
    assert machine.summary()[0] == f"{sizes}; {used}"


SAVED = {  # as the first version wrote it, between the decision and the next epoch
    "version": 1,
    "start": [4, 1, 1],
    "current": [8, 1, 1],
    "following": [8, 2, 1],
    "factors": [1.5, 2.5],
    "decided": 16,
    "decided_at": 36,
    "epoch_steps": 24,
    "epoch": 1,
    "mark": [36, 192.0],
    "history": [[0, 4, 24, 96.0, 50.0], [1, 8, 12, 96.0, None]],
}


def test_states_of_the_first_version_are_read_and_written_alike():
    machine = Adaptation(AdaptiveBatchSize())
    machine.load_state_dict(SAVED)
    assert machine.state_dict() == SAVED
    now = [SetBatch(Fraction(2)), SetAccumulation(1), SetRateFactor(1.5)]
    assert machine.begin_fit(Mark(36, 192.0), START) == machine.in_force() == now
    assert machine.begin_epoch(2, batches=12) == [
        SetAccumulation(2),
        SetRateFactor(2.5),
        MeasureSizeAnew(),
        SetPace(4.0),
    ]
    earliest = {name: value for name, value in SAVED.items() if name != "epoch"}
    machine.load_state_dict(earliest)
    assert machine.state.epoch == 0


@pytest.mark.parametrize("part", sorted(set(SAVED) - {"version", "epoch"}))
def test_a_damaged_state_names_its_part_and_changes_nothing(part):
    machine = Adaptation(AdaptiveBatchSize())
    damaged = {name: value for name, value in SAVED.items() if name != part}
    with pytest.raises(KeyError, match=part):
        machine.load_state_dict(damaged)
    assert machine.state == State()


def test_advice_after_an_adaptive_run_is_about_the_sizes_of_this_run():
    machine = Adaptation(AdaptiveBatchSize(advise_only=True))
    machine.load_state_dict(SAVED)
    assert machine.begin_fit(Mark(36, 192.0), None) == [] and machine.rate_factor == 1.0
    assert machine.state.sizes is None and len(machine.state.history) == 2


def resumed(machine):
    """A new machine with the state from a checkpoint; a fit begins with the same sizes."""
    again = Adaptation(machine.settings)
    again.load_state_dict(json.loads(json.dumps(machine.state_dict())))
    own = None if machine.settings.advise_only else START
    if machine.state.period_start is not None:
        assert again.begin_fit(machine.state.period_start, own) == machine.in_force()
    return again


def play(settings, scales, resume_at=None):
    """The actions of every event of a run with 120 micro-batches an epoch, and the last state.

    ``scales`` are the noise scales of the epochs; before event ``resume_at`` the run is resumed.
    """
    machine, trace = Adaptation(settings), []
    own = None if settings.advise_only else START
    steps = examples = 0

    def happens(event, *arguments):
        nonlocal machine
        if len(trace) == resume_at:
            machine = resumed(machine)
        trace.append((event, getattr(machine, event)(*arguments)))

    happens("begin_fit", Mark(0, 0.0), own)
    for epoch, noise_scale in enumerate(scales):
        happens("begin_epoch", epoch, 120)
        for batch in range(1, 121):
            plan = START if machine.state.sizes is None else machine.state.sizes.current
            if batch % plan.accumulation:
                continue
            steps, examples = steps + 1, examples + plan.global_size
            now = measured(plan.global_size, steps, float(examples), estimate=seen(noise_scale))
            if machine.decides_now(steps):
                happens("inside_epoch", now, Limits(Bounds(max_local_size=64)))
            if machine.waits and batch % machine.state.following.plan.accumulation == 0:
                happens("arrives", now)
        happens("end_epoch", now, Limits(Bounds(max_local_size=64)))
    happens("end_training", now)
    return trace, machine.state


@settings(deadline=None, max_examples=60)
@given(
    scales=st.lists(st.floats(2.0, 3000.0), min_size=1, max_size=5),
    within_epoch=st.booleans(),
    advise_only=st.booleans(),
    resume_at=st.integers(0, 20),
)
def test_resuming_at_any_event_changes_no_action(scales, within_epoch, advise_only, resume_at):
    flags = {"within_epoch": within_epoch, "advise_only": advise_only}
    adaptive = AdaptiveBatchSize(TrackNoiseScale(shrink=True), **flags)
    assert play(adaptive, scales, resume_at) == play(adaptive, scales)


def test_a_scripted_run_has_every_kind_of_event_and_resumes_at_each():
    adaptive = AdaptiveBatchSize(TrackNoiseScale(shrink=True), within_epoch=True)
    scales = [300.0, 900.0, 20.0]
    whole = play(adaptive, scales)
    kinds = {event for event, _ in whole[0]}
    assert kinds == {
        "begin_fit",
        "begin_epoch",
        "inside_epoch",
        "arrives",
        "end_epoch",
        "end_training",
    }
    for place in range(len(whole[0])):
        assert play(adaptive, scales, place) == whole


def test_the_factor_on_the_learning_rate_is_taken_anew_at_every_decision():
    machine = running(script({4: 8}), learning_rate="optimal")
    machine.end_epoch(measured(4, 24), Limits(alpha=1.0))
    machine.begin_epoch(1, 12)
    before = (1 + 900 / 4) / (1 + 900 / 8)
    assert machine.rate_factor == pytest.approx(before, rel=1e-12)
    now = measured(8, 36, estimate=seen(10.0))
    after = (1 + 9 / 4) / (1 + 9 / 8)
    assert machine.end_epoch(now, Limits(alpha=1.0)) == [SetRateFactor(pytest.approx(after))]
    assert machine.rate_factor == pytest.approx(after, rel=1e-12)
    assert machine.end_epoch(now, Limits(alpha=1.0)) == []
