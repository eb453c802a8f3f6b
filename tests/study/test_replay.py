"""The result of a run from its readings is that of a run with that end and these goals."""

import pytest

from lightning_noise.study.goal import Goal
from lightning_noise.study.packing import LONGEST, is_whole, pack, unpack
from lightning_noise.study.replay import replay
from lightning_noise.study.task import Record, RunKey, Series
from lightning_noise.study.trial import run
from testing import cheap

LOSS = {target: Goal(metric="val_loss", target=target) for target in (0.9, 0.7, 0.55)}
TRAIN = Goal(metric="loss", target=0.8, on="train")
SMOOTH = Goal(metric="loss", target=0.8, on="train", smoothing=64, name="smooth")
NEVER = Goal(metric="val_loss", target=0.1)


def study(goals):
    return cheap.study(None, goal=goals, batch_sizes=[16], noise_scale=False, validate_every=48)


def left_by(goals, *, rate=0.05, cap=None):
    """The record of a real run, and its task."""
    one = study(goals)
    task = one._plan(16).next_tasks({})[0]._replace(parameters={"learning_rate": rate})
    if cap is not None:
        task = task._replace(max_steps=cap)
    return run(one.recipe, task), task


def outcome(record, task, *, goals=None, early_stop=True):
    return replay(
        record,
        goals or task.goals,
        global_size=16,
        max_steps=task.max_steps,
        budget_steps=198,
        early_stop=early_stop,
    )


@pytest.mark.parametrize("rate", [0.05, 0.3, 5.0])
@pytest.mark.parametrize("cap", [6, 30, 198])
def test_a_longer_run_tells_what_a_shorter_one_gives(rate, cap):
    long, _ = left_by([NEVER, *LOSS.values(), TRAIN, SMOOTH], rate=rate)
    for goals in ([LOSS[0.7]], [LOSS[0.9], LOSS[0.55]], [TRAIN], [SMOOTH, LOSS[0.7]]):
        short, task = left_by(goals, rate=rate, cap=cap)
        wanted = outcome(short, task)
        assert outcome(long, task) == wanted
        assert wanted.trained == short.trained


def test_a_run_that_was_ended_too_early_tells_nothing():
    short, task = left_by([LOSS[0.55]], cap=6)
    assert outcome(short, task).goals[LOSS[0.55]].status == "incomplete"
    longer = task._replace(max_steps=60)
    assert outcome(short, longer) is None
    assert outcome(short._replace(ended=True), longer).goals[LOSS[0.55]].status == "incomplete"


def test_a_run_that_did_not_read_a_metric_tells_nothing_of_it():
    record, task = left_by([LOSS[0.7]])
    assert outcome(record, task, goals=[TRAIN]) is None
    assert outcome(record, task, goals=[Goal(metric="val_acc", target=1, mode="max")]) is None


def record(values, *, failed=None):
    steps = tuple(10 * number for number in range(len(values)))
    return Record(
        trained=steps[-1],
        ended=False,
        readings={("validation", "acc"): Series(steps, tuple(values))},
        loss_failed=failed,
        noise={},
    )


ACCURACY = Goal(metric="acc", target=0.5, mode="max")


@pytest.mark.parametrize(
    ("one", "status", "trained"),
    [
        (record([0.1, 0.1, 0.6]), "reached", 20),
        (record([0.1, 0.1, 0.6], failed=20), "diverged", 20),  # before the validation
        (record([0.1, 0.6, 0.6], failed=11), "reached", 10),
        (record([0.1, 0.2, float("nan")]), "diverged", 20),
    ],
)
def test_a_loss_that_fails_ends_a_goal_when_it_failed_in_training(one, status, trained):
    found = replay(one, [ACCURACY], global_size=1, max_steps=20, budget_steps=20, early_stop=True)
    assert (found.goals[ACCURACY].status, found.trained) == (status, trained)


def test_a_run_that_an_earlier_version_ended_for_its_large_loss_is_done_again():
    """Its attributes have a ``loss_far``, and it was ended there with finite losses."""
    key = RunKey(16, "search", 0, 1)
    attributes = pack(key, record([0.1, 0.2]), {})
    attributes["run"]["loss_far"] = {"0.0": 10}
    _, ended = unpack(attributes)
    arguments = {"global_size": 1, "budget_steps": 20, "early_stop": True}
    assert replay(ended, [ACCURACY], max_steps=20, **arguments) is None
    assert replay(ended, [ACCURACY], max_steps=10, **arguments).trained == 10


def test_records_are_packed_to_the_last_bit():
    long = tuple(1 / (number + 3) for number in range(20_000))
    one = record([0.1, float("inf"), 0.6])._replace(
        readings={("train", "loss"): Series(tuple(range(20_000)), long)},
    )
    key = RunKey(32, "search", 0, 5)
    attributes = pack(key, one, {"learning_rate": 0.1})
    assert unpack(attributes) == (key, one)
    assert max(len(value) for value in attributes.values()) == LONGEST
    assert is_whole(attributes)
    del attributes["readings:1"]
    assert not is_whole(attributes)
