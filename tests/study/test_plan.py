"""What is run next, as a function of what has been run: no process, no training."""

import ast
import random
from pathlib import Path

import pytest

import lightning_noise
from lightning_noise.study.goal import Goal, GoalOutcome
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.settings import Search
from lightning_noise.study.space import distributions
from lightning_noise.study.task import RERUN, SEARCH, Outcome

SPACE = distributions({"learning_rate": (0.01, 1.0)}, 32)
EASY, HARD = GOALS = Goal(metric="loss", target=1.0), Goal(metric="loss", target=0.5)


def plan(*, goals=GOALS, budget_steps=1000, **changes):
    search = Search(**{"trials": 8, "refine": 4, "seeds": 2, "seed": 5, **changes})
    return SizePlan(
        global_size=32,
        space=SPACE,
        goals=goals,
        search=search,
        budget_steps=budget_steps,
        every=10,
    )


def steps_to(goal, rate):
    """The easy goal likes 0.3, the hard one 0.1; below 0.02 neither is reached."""
    best, least = {EASY: (0.3, 50), HARD: (0.1, 200)}[goal]
    return least * max(rate / best, best / rate) if rate > 0.02 else None


def run(task):
    found = {}
    for goal in task.goals:
        steps = steps_to(goal, task.parameters["learning_rate"])
        reached = steps is not None and steps <= task.max_steps
        found[goal] = GoalOutcome(
            "reached" if reached else "incomplete",
            steps if reached else None,
            0.5,
        )
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


def fewest(tasks, goal, done):
    return min(done[task.key].goals[goal].steps or 1000 for task in tasks)


def test_pruning_changes_no_winner_and_spares_steps():
    pruned, ran = finish(plan(), random.Random(0))
    whole, ran_whole = finish(plan(prune=False), random.Random(0))
    assert plan().winners(pruned) == plan(prune=False).winners(whole)
    assert all(task.max_steps == 1000 for task in ran_whole)
    search = [task for task in ran if task.phase == SEARCH]
    # the first wave knows of none before it
    assert all(task.max_steps == 1000 for task in search if task.trial < 4)
    for task in search:
        earlier = [other for other in search if other.trial < task.trial - task.trial % 4]
        if earlier:
            slowest = max(fewest(earlier, goal, pruned) for goal in GOALS)
            assert slowest < task.max_steps <= slowest + 20  # its best, and one check more


def test_a_goal_that_nobody_has_reached_keeps_every_run_going():
    only_low = plan(goals=(EASY,), budget_steps=30)  # nobody reaches anything in 30 steps
    done, started = finish(only_low, random.Random(0))
    assert all(task.max_steps == 30 for task in started)
    assert only_low.winners(done) == {}
    # nothing to look closer at
    assert not [task for task in started if task.phase == RERUN or task.trial >= 8]


def test_each_goal_has_its_own_closer_search_and_reruns():
    done, started = finish(plan(), random.Random(0))
    winners = plan().winners(done)
    assert set(winners) == {EASY, HARD}
    assert winners[EASY] != winners[HARD]
    assert max(task.trial for task in started) == 8 + 2 * 4 - 1
    reruns = [(task.trial, task.seed, task.goals) for task in started if task.phase == RERUN]
    expected = {(winners[goal], seed, (goal,)) for goal in GOALS for seed in (6, 7)}
    assert set(reruns) == expected
    assert len(reruns) == 4
    rate = plan().settings(done)[winners[EASY]]["learning_rate"]
    # closer than the 1.78 between neighbours of the first search
    assert rate == pytest.approx(0.3, rel=0.25)


def test_a_shared_winner_is_run_again_once_for_both_goals():
    one = plan(trials=1, refine=0)
    _, started = finish(one, random.Random(0))
    assert [task.goals for task in started if task.phase == RERUN] == [GOALS, GOALS]


PACKAGE = Path(lightning_noise.__file__).parent


def imported(module):
    """The modules that a file of the package imports, and those that they import."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        file = PACKAGE.parent / f"{name.replace('.', '/')}.py"
        if name in found or not file.is_file():
            found.add(name)
            continue
        found.add(name)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                waiting.append(node.module)
    return found


@pytest.mark.parametrize(("room", "needs"), [("task", set()), ("plan", {"optuna"})])
def test_plans_and_tasks_know_neither_torch_nor_lightning(room, needs):
    found = {name.split(".")[0] for name in imported(f"lightning_noise.study.{room}")}
    outside = {"torch", "lightning", "pytorch_lightning", "optuna", "matplotlib", "filelock"}
    assert found & outside == needs
    rooms = imported(f"lightning_noise.study.{room}")
    assert not [name for name in rooms if name.startswith("lightning_noise.hosts")]
