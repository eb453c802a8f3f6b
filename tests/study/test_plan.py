"""What is run next, as a function of what has been run: no process, no training."""

import random

import pytest

from lightning_noise.study.goal import GoalOutcome
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import distributions
from lightning_noise.study.trial import Outcome

SPACE = distributions({"learning_rate": (0.01, 1.0)}, 32)


def plan(**changes):
    settings = {"trials": 8, "refine": 4, "seeds": 2, "seed": 5, "budget_steps": 1000, "every": 10, "prune": True, "goals": 2}
    return SizePlan(global_size=32, space=SPACE, **{**settings, **changes})


def steps_to(goal, rate):
    """The easy goal likes 0.3, the hard one 0.1; below 0.02 neither is reached."""
    best, least = ((0.3, 50), (0.1, 200))[goal]
    return least * max(rate / best, best / rate) if rate > 0.02 else None


def run(task):
    found = {}
    for goal in task.goals:
        steps = steps_to(goal, task.parameters["learning_rate"])
        reached = steps is not None and steps <= task.max_steps
        found[goal] = GoalOutcome("reached" if reached else "incomplete", steps if reached else None, 0.5)
    return Outcome(found, False, {})


def finish(plan, order):
    """Runs all, some at a time in any order; what was done, in the order of starting."""
    done, started, running = {}, [], []
    while True:
        waiting = [task for task in plan.next_tasks(done) if task not in running]
        running += waiting[: order.randint(1, 3)]
        if not running:
            return done, started
        task = running.pop(order.randrange(len(running)))
        started.append(task)
        done[task.key] = run(task)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_endings_gives_the_same_runs(seed):
    wanted, _ = finish(plan(), random.Random(0))
    done, started = finish(plan(), random.Random(seed))
    assert done == wanted
    assert len(started) == len(done) == plan().expected(done)


def test_pruning_changes_no_winner_and_spares_steps():
    pruned, ran = finish(plan(), random.Random(0))
    whole, ran_whole = finish(plan(prune=False), random.Random(0))
    assert plan().winners(pruned) == plan(prune=False).winners(whole)
    assert all(task.max_steps == 1000 for task in ran_whole)
    search = [task for task in ran if task.phase == "search"]
    assert all(task.max_steps == 1000 for task in search if task.trial < 4)  # the first wave knows of none before it
    for task in search:
        best = [
            min(pruned[other.key].goals[goal].steps or 1000 for other in search if other.trial < task.trial - task.trial % 4)
            for goal in (0, 1)
            if task.trial >= 4
        ]
        if best:
            assert max(best) < task.max_steps <= max(best) + 20  # the hard goal's best, and one check more


def test_a_goal_that_nobody_has_reached_keeps_every_run_going():
    only_low = plan(goals=1, budget_steps=30)  # nobody reaches anything in 30 steps
    done, started = finish(only_low, random.Random(0))
    assert all(task.max_steps == 30 for task in started)
    assert only_low.winners(done) == {}
    assert not [task for task in started if task.phase == "rerun" or task.trial >= 8]  # nothing to look closer at


def test_each_goal_has_its_own_closer_search_and_reruns():
    done, started = finish(plan(), random.Random(0))
    winners = plan().winners(done)
    assert set(winners) == {0, 1}
    assert winners[0] != winners[1]
    assert max(task.trial for task in started) == 8 + 2 * 4 - 1
    reruns = [(task.trial, task.seed, task.goals) for task in started if task.phase == "rerun"]
    assert sorted(reruns) == sorted((winners[goal], seed, (goal,)) for goal in (0, 1) for seed in (6, 7))
    rate = plan().settings(done)[winners[0]]["learning_rate"]
    assert rate == pytest.approx(0.3, rel=0.25)  # closer than the 1.78 between neighbours of the first search


def test_a_shared_winner_is_run_again_once_for_both_goals():
    one = plan(trials=1, refine=0)
    _, started = finish(one, random.Random(0))
    assert [task.goals for task in started if task.phase == "rerun"] == [(0, 1), (0, 1)]
