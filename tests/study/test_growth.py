"""Studies that grow: what is trained again, and that the table is that of a study run at once."""

import optuna
import pytest

from lightning_noise.study import Budget, Goal, LogUniform, Search, StorageError, Uniform, timing
from lightning_noise.study.task import REPEAT, RERUN, SEARCH
from testing import cheap

GOALS = {target: Goal(metric="val_loss", target=target) for target in (1.0, 0.8, 0.7, 0.6, 0.55)}
BASE = {
    "batch_sizes": [8, 32],
    "search": Search(trials=4, seeds=1, widen=0),
    "noise_scale": False,
    "goal": GOALS[0.7],
    "budget": Budget(steps=40),
    "validate_every": 32,
}


def study(storage, **changes):
    return cheap.study(storage, **{**BASE, **changes})


@pytest.fixture
def trained(monkeypatch):
    """The key of every run that is trained, in order."""
    keys = []
    plain = timing.run

    def run(recipe, task):
        keys.append(task.key)
        return plain(recipe, task)

    monkeypatch.setattr(timing, "run", run)
    return keys


MEMORY = optuna.storages.InMemoryStorage


def grown(trained, *steps):
    """The table after every step on one storage, and what the last one has trained."""
    storage = MEMORY()
    for changes in steps[:-1]:
        study(storage, **changes).run()
    trained.clear()
    table = study(storage, **steps[-1]).run().table
    last = list(trained)
    study(storage, **steps[-1]).run()
    assert trained == last  # nothing more to do
    return table, last


def at_once(trained, changes):
    trained.clear()
    table = study(MEMORY(), **changes).run().table
    return table, list(trained)


def test_more_seeds_train_only_the_new_reruns(trained):
    more = {"search": Search(trials=4, seeds=3, widen=0)}
    table, last = grown(trained, {}, more)
    assert table == at_once(trained, more)[0]
    assert [(key.phase, key.seed) for key in last] == [(RERUN, 2), (RERUN, 3)] * 2


def test_more_sizes_train_only_these(trained):
    more = {"batch_sizes": [8, 16, 32]}
    table, last = grown(trained, {}, more)
    assert table == at_once(trained, more)[0]
    assert {key.global_size for key in last} == {16}


def test_more_trials_keep_the_first_ones(trained):
    more = {"search": Search(trials=8, seeds=1, widen=0)}
    table, last = grown(trained, {}, more)
    fresh, everything = at_once(trained, more)
    assert table == fresh
    search = [key for key in last if key.phase == SEARCH]
    assert {key.trial for key in search} >= {4, 5, 6, 7}
    # the first wave was run without an end, so it tells all
    assert not [key for key in search if key.trial < 4]
    assert len(last) < len(everything)


def test_another_goal_trains_what_no_run_tells(trained):
    more = {"goal": [GOALS[0.7], GOALS[0.55]]}
    table, last = grown(trained, {}, more)
    fresh, everything = at_once(trained, more)
    assert table == fresh
    assert len(last) < len(everything)
    easier = {"goal": [GOALS[0.55], GOALS[0.7]]}
    table, last = grown(trained, {"goal": GOALS[0.55]}, easier)
    fresh, _ = at_once(trained, easier)
    assert table == fresh
    assert not [key for key in last if key.phase == SEARCH]  # they went further than 0.7 needs


def test_more_budget_trains_again_what_was_incomplete(trained):
    short = {"budget": Budget(steps=12), "goal": GOALS[0.55], "search": Search(trials=8, seeds=1)}
    long = {**short, "budget": Budget(steps=40)}
    storage = MEMORY()
    before = study(storage, **short).run().table
    trained.clear()
    table = study(storage, **long).run().table
    again = set(trained)
    reached = set()
    for row in before:
        if row["status"] == "reached":
            key = (row["global_size"], row["phase"], row["trial"], row["seed"])
            reached.add(key)
    assert reached
    assert not again & reached
    assert table == at_once(trained, long)[0]


def test_a_smaller_study_is_read_from_a_larger_one(trained):
    large = {
        "search": Search(trials=8, seeds=3, widen=0),
        "goal": [GOALS[0.7], GOALS[0.55]],
        "batch_sizes": [8, 16, 32],
        "budget": Budget(steps=60),
    }
    storage = MEMORY()
    study(storage, **large).run()
    trained.clear()
    table = study(storage, search=Search(trials=8, seeds=1, widen=0)).run().table
    assert set(trained) <= {key for key in trained if key.phase in (REPEAT, RERUN)}
    fresh, everything = at_once(trained, {"search": Search(trials=8, seeds=1, widen=0)})
    assert table == fresh
    assert len(everything) > 0


def test_a_wider_range_keeps_the_points_and_searches_what_was_added(trained):
    wide = {"search_space": {"learning_rate": LogUniform(0.005, 2.0)}}
    narrow = {"search_space": {"learning_rate": LogUniform(0.02, 2.0)}}
    storage = MEMORY()
    before = study(storage, **narrow).run().table
    trained.clear()
    table = study(storage, **wide).run().table
    search = [row for row in table if row["phase"] == SEARCH]
    kept = [row["learning_rate"] for row in search if row["trial"] < 4]
    assert kept == [row["learning_rate"] for row in before if row["phase"] == SEARCH]
    # a third of the first range was added: ln 4 to ln 100, so two trials to four
    added = [row["learning_rate"] for row in search if row["trial"] >= 4]
    assert len(added) == 2 * 2
    assert all(0.005 <= rate <= 0.02 for rate in added)
    assert not [key for key in trained if key.phase == SEARCH and key.trial < 4]
    trained.clear()
    assert study(storage, **wide).run().table == table
    assert trained == []


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": LogUniform(0.05, 2.0)},
        {"learning_rate": Uniform(0.001, 9.0)},
        {"learning_rate": LogUniform(0.001, 9.0), "momentum": Uniform(0.0, 0.9)},
    ],
)
def test_a_narrower_or_another_range_is_refused(changed):
    storage = MEMORY()
    study(storage, batch_sizes=[32]).run()
    with pytest.raises(StorageError, match=r"name or storage: a range .* wider but not narrower"):
        study(storage, batch_sizes=[32], search_space=changed).run()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"search": Search(trials=4, seeds=1, seed=3)}, "seed was 0 and is 3"),
        ({"validate_every": 64}, "validate_every was 1 and is 2"),
        ({"noise_scale": True}, r"noise_scale was None and is '\[\]'"),
    ],
)
def test_what_changes_a_run_is_refused(changes, told):
    storage = MEMORY()
    study(storage, batch_sizes=[32]).run()
    with pytest.raises(StorageError, match=rf"with other settings: {told}\. Give this one another"):
        study(storage, batch_sizes=[32], **changes).run()


def test_the_interval_of_validations_stays_where_none_is_given(trained):
    short = {"validate_every": None, "budget": Budget(steps=200)}
    long = {"validate_every": None, "budget": Budget(steps=400)}
    _, last = grown(trained, short, long)
    assert last == []  # every run had reached the goal: validations each two steps, as before


class Scheduled(cheap.Regression):
    def configure_optimizers(self):
        self.rate *= 1 - 10 / self.trainer.max_steps
        return super().configure_optimizers()


def scheduled(parameters):
    return Scheduled(**parameters)


def test_another_budget_is_refused_where_the_module_reads_it():
    storage = MEMORY()
    one = {"make_module": scheduled, "batch_sizes": [32]}
    study(storage, **one).run()
    more = study(storage, **one, budget=Budget(steps=80))
    with pytest.raises(StorageError, match=r"budget of 40 steps, now it is 80, and the module re"):
        more.run()
    with pytest.raises(StorageError, match="budget of 40 steps"):
        more.run()  # nothing was accepted by being refused
    kept = "runs from before a change of the budget are kept, as accepted"
    assert kept in more.run(accept_changes=True).run_warnings


def test_further_goals_are_read_from_the_same_runs(trained):
    targets = [1.3, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.65, 0.6]
    further = [Goal(metric="val_loss", target=target) for target in targets]
    hardest = {"goal": GOALS[0.55], "search": Search(trials=4, seeds=3, widen=0)}
    storage = MEMORY()
    before = study(storage, **hardest).run()
    trained.clear()
    result = study(storage, **hardest, further_goals=further).run()
    assert trained == []
    assert result.goals == ["val_loss <= 0.55", *(goal.name for goal in further)]
    assert result.table[: len(before.table)] == before.table
    for size in (8, 32):
        steps = [result.steps(goal.name)[size] for goal in further]
        assert steps == sorted(steps)
        assert steps[-1] < result.steps("val_loss <= 0.55")[size]
    # the same run, trained for that goal alone
    task = study(None, goal=further[3])._plan(32).next_tasks({})[0]
    plain = timing.run(study(None, goal=further[3]).recipe, task)
    wanted = study(None, goal=further[3])._plan(32).outcome(task, {task.key: (plain,)})
    (row,) = (
        row
        for row in result.table
        if (row["goal"], row["global_size"], row["phase"], row["trial"])
        == (further[3].name, 32, SEARCH, 0)
    )
    assert row["steps"] == wanted.goals[further[3]].steps


def test_a_further_goal_is_read_from_the_next_harder_one():
    one = study(None, goal=[GOALS[0.55], GOALS[0.7]], further_goals=[GOALS[0.8], GOALS[0.6]])
    assert one.further_goals == {GOALS[0.8]: GOALS[0.7], GOALS[0.6]: GOALS[0.55]}
    with pytest.raises(ValueError, match=r"must be no harder .* which 'val_loss <= 0.6' is not"):
        study(None, further_goals=GOALS[0.6])
    with pytest.raises(ValueError, match=r"which 'acc >= 0.5' is not\. Give it as goal= instead"):
        study(None, further_goals=Goal(metric="acc", target=0.5, mode="max"))
    with pytest.raises(ValueError, match="the goals must have different names"):
        study(None, further_goals=Goal(metric="val_loss", target=0.9, name=GOALS[0.7].name))


def test_runs_of_an_earlier_version_are_refused_with_the_fix():
    storage = MEMORY()
    study(storage, batch_sizes=[32]).run()
    for name in ("study/global_size=32", "study/global_size=32/rerun"):
        stored = optuna.load_study(storage=storage, study_name=name)
        settings = {**stored.user_attrs["settings"], "refine": 0}
        del settings["format"], settings["spaces"]
        stored.set_user_attr("settings", settings)
    with pytest.raises(StorageError) as refused:
        study(storage, batch_sizes=[32]).run()
    assert str(refused.value) == (
        "Give this study another name or storage: the runs that are stored as "
        "'study/global_size=32' are from an earlier version of lightning-noise, which stored their "
        "results without their readings and chose winners by one seed. That version still reads "
        "them."
    )
