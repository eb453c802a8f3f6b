"""Successive halving over seeds, and widened ranges: the rules, without any run."""

import math

import pytest
from optuna.distributions import FloatDistribution

from lightning_noise.study import Goal, Momentum, Uniform
from lightning_noise.study.ranking import Standing, best, halvings, steps_that_matter
from lightning_noise.study.rows import rows_of
from lightning_noise.study.space import distributions
from lightning_noise.study.strips import edges_of, of_edges, of_user, with_strip
from lightning_noise.study.task import SEARCH
from lightning_noise.study.told import told_by
from testing import fake_runs

NEVER = math.inf


def shown(*steps):
    found = Standing()
    for one in steps:
        found = found.after(one)
    return found


@pytest.mark.parametrize(
    ("trials", "rungs"), [(16, [8, 4, 2, 1]), (20, [10, 5, 3, 2, 1]), (2, [1]), (1, [1])]
)
def test_every_rung_keeps_half(trials, rungs):
    assert list(halvings(trials)) == rungs


def test_trials_are_ranked_by_the_mean_of_ln_s():
    standings = {0: shown(100, 400), 1: shown(210, 210), 2: shown(150, 250)}
    assert best(standings, 3) == [2, 0, 1]  # 194, 200, 210
    assert best(standings, 1) == [2]


def test_a_trial_that_failed_once_goes_on_only_where_all_have_failed():
    assert best({0: shown(10, NEVER), 1: shown(500, 500), 2: shown(NEVER, 1)}, 2) == [1]
    assert best({0: shown(20, NEVER), 1: shown(NEVER, 10), 2: shown(NEVER, NEVER)}, 2) == [1, 0]
    assert best({0: shown(NEVER), 1: shown(NEVER)}, 2) == []


def test_ties_go_to_the_earlier_trial():
    assert best({3: shown(10, 20), 1: shown(20, 10), 2: shown(10, 20)}, 2) == [1, 2]


def test_a_repeat_matters_until_its_mean_is_behind_those_that_are_kept():
    others = [shown(100, 100), shown(100, 400), shown(NEVER, 1)]
    assert steps_that_matter(shown(50), others, keep=1) == pytest.approx(200)  # 100² / 50
    assert steps_that_matter(shown(50), others, keep=2) == pytest.approx(800)
    assert steps_that_matter(shown(50), others, keep=3) == NEVER
    assert steps_that_matter(shown(50), others, keep=4) == NEVER
    assert steps_that_matter(shown(NEVER), others, keep=1) == NEVER


SPACE = {"learning_rate": (0.01, 1.0), "momentum": Momentum(0.0, 0.99), "decay": Uniform(0, 1)}


def test_rates_and_momenta_have_edges_and_other_ranges_have_not():
    space = distributions(SPACE, 8)
    corner = {"learning_rate": 0.9, "1 - momentum": 0.011, "decay": 0.99}
    assert set(edges_of(space, corner)) == {("learning_rate", "high"), ("1 - momentum", "low")}
    inside = {"learning_rate": 0.1, "1 - momentum": 0.1, "decay": 0.01}
    assert list(edges_of(space, inside)) == []


def test_an_edge_is_moved_by_a_quarter_of_the_first_range():
    space = distributions({"learning_rate": (0.01, 1.0)}, 8)
    edge = ("learning_rate", "high")
    (first,) = of_edges([space], [edge], [], limit=2)
    (second,) = of_edges([space], [edge], [first], limit=2)
    added = [strip.space["learning_rate"] for strip in (first, second)]
    assert [(dist.low, dist.high) for dist in added] == [
        (1.0, pytest.approx(100**0.25)),
        (pytest.approx(100**0.25), pytest.approx(10)),
    ]
    assert [strip.count(16) for strip in (first, second)] == [4, 4]
    assert first.number != second.number
    assert of_edges([space], [edge], [first, second], limit=2) == []
    assert with_strip(space, first)["learning_rate"].high == pytest.approx(100**0.25)


def test_a_momentum_is_not_widened_below_zero():
    space = distributions({"learning_rate": (0.01, 1.0), "momentum": Momentum(0.0, 0.99)}, 8)
    assert of_edges([space], [("1 - momentum", "high")], [], limit=2) == []
    some = distributions({"learning_rate": (0.01, 1.0), "momentum": Momentum(0.5, 0.99)}, 8)
    (strip,) = of_edges([some], [("1 - momentum", "high")], [], limit=2)
    assert strip.space["1 - momentum"].high == 1.0


def test_what_the_user_adds_is_searched_as_densely_as_the_range():
    spaces = []
    for low, high in [(0.1, 1.0), (0.01, 1.0), (0.01, 10.0)]:
        spaces.append({"learning_rate": FloatDistribution(low, high, log=True)})
    below, above = of_user(spaces)
    assert (below.side, above.side) == ("low", "high")
    assert [strip.count(16) for strip in (below, above)] == [16, 16]
    assert of_user(spaces[:2]) == [below]
    rates = [point["learning_rate"] for point in above.points(16, seed=0).values()]
    assert all(1 <= rate <= 10 for rate in rates)


GOAL = Goal(metric="loss", target=1)


def widened(**changes):
    """A study whose best rate of 5 lies far above its range, or beyond any."""
    plan = fake_runs.plan((GOAL,), trials=8, seeds=1, **changes)
    done = {}
    while tasks := plan.next_tasks(done):
        for task in tasks:
            rate = task.parameters["learning_rate"]
            steps = {"loss": 100 * max(5 / rate, rate / 5) ** 0.25}
            done[task.key] = (fake_runs.record(steps, task.max_steps, every=10),)
    return plan, done


def test_a_best_trial_at_an_edge_widens_the_range_within_its_limit():
    for widen, high in [(0, 1.0), (1, 100**0.25), (2, 10.0), (3, 10.0)]:
        plan, done = widened(widen=widen)
        state = plan.state(done)
        assert state.space["learning_rate"].high == pytest.approx(high)
        search = [key for key in done if key.phase == SEARCH]
        assert len(search) == 8 + 2 * len(state.strips)
    assert len(state.strips) == 2  # the best rate is inside now
    assert 2 < state.points[state.winners[GOAL]]["learning_rate"] < 12.5


def test_what_was_widened_stands_in_the_table_and_in_the_warnings():
    plan, done = widened(widen=2)
    rows = rows_of([plan], [GOAL], done)
    added = {row["trial"] for row in rows if row["widened"]}
    base = {row["trial"] for row in rows if not row["widened"]}
    assert base == set(range(8))
    assert len(added) == 4
    assert all(row["learning_rate"] > 1 for row in rows if row["widened"])
    assert told_by([plan], done) == [
        "at global size 32 the best trial lay at an edge, so the range of learning_rate was "
        "widened from [0.01, 1] to [0.01, 10], with 4 further trials"
    ]
    assert not [row for row in rows if row["best"] and row["boundary"]]
