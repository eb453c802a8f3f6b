"""Whole studies in this process: what is trained, what is read from it, what stays behind."""

import os
import pickle
import random
import subprocess
import sys
from itertools import pairwise

import lightning as L
import numpy as np
import optuna
import pytest
import pytorch_lightning
import torch
from torch import nn

from lightning_noise.study import Budget, Goal, Momentum, Search, StorageError, TrialError, Workers
from lightning_noise.study.opening import opened
from lightning_noise.study.packing import unpack
from lightning_noise.study.task import RERUN, SEARCH
from lightning_noise.study.trial import run
from testing import cheap

MEMORY = optuna.storages.InMemoryStorage
WHOLE = Search(trials=6, seeds=2, prune=False)


def first(outcome):
    """What came of the first goal."""
    return next(iter(outcome.goals.values()))


def one(*, size=32, parameters=None, phase=SEARCH, cap=None, **changes):
    """One run of a study, and what came of it."""
    study = cheap.study(None, batch_sizes=[size], **changes)
    task = study._plan(size).next_tasks({})[0]
    task = task._replace(parameters=parameters or {"learning_rate": 0.1}, phase=phase)
    if cap is not None:
        task = task._replace(max_steps=cap)
    record = run(study.recipe, task)
    return study._plan(size).outcome(task, {task.key: (record,)})


def by_hand(size, rate, seed):
    """Training and validation losses of a plain loop over one epoch, before each step."""
    torch.manual_seed(seed)
    train, val = cheap.make_data(size, seed)
    model = cheap.Regression(rate)
    optimizer = model.configure_optimizers()
    losses, validated = [], []
    for batch in train:
        with torch.no_grad():
            validated.append(float(model.loss(next(iter(val)))))
        loss = model.loss(batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, validated


def crossing(values, target, every=1):
    """The first one, linear between the readings at every so many steps."""
    readings = list(enumerate(values))[::every]
    for (before, above), (step, now) in pairwise(readings):
        if now <= target:
            return before + (step - before) * (above - target) / (above - now)
    return None


def test_steps_are_those_of_a_plain_loop():
    losses, validated = by_hand(32, 0.05, 0)
    goals = [
        Goal(metric="val_loss", target=0.9),
        Goal(metric="loss", target=0.8, on="train"),
        Goal(metric="train_loss", target=1.1, on="train"),
    ]
    outcome = one(goal=goals, validate_every=3 * 32, parameters={"learning_rate": 0.05})
    expected = [crossing(validated, 0.9, every=3), crossing(losses, 0.8), crossing(losses, 1.1)]
    assert [outcome.goals[goal].steps for goal in goals] == pytest.approx(expected, rel=1e-4)


def test_a_run_ends_where_its_goals_are_decided_or_cannot_be_won():
    assert one().pruned
    assert [found.status for found in one(cap=3).goals.values()] == ["incomplete", "incomplete"]
    assert one(cap=3).pruned
    whole = one(search=WHOLE)
    hard = cheap.GOALS[1]
    assert not whole.pruned
    assert whole.goals[hard].steps == one().goals[hard].steps
    assert whole.goals[hard].best_value < one().goals[hard].best_value  # it went on


@pytest.mark.parametrize(
    "goal",
    [Goal(metric="val_loss", target=0.55), Goal(metric="loss", target=0.55, on="train")],
)
def test_a_run_that_blows_up_has_diverged(goal):
    outcome = one(goal=goal, parameters={"learning_rate": 5.0})
    assert first(outcome).status == "diverged"
    assert not outcome.pruned


class Scored(cheap.Regression):
    """Logs a score in (0, 1], which no blow-up can bring far below where it starts."""

    def validation_step(self, batch, batch_idx):
        self.log("score", torch.exp(-self.loss(batch)))


SCORE = {
    "make_module": lambda p: Scored(**p),
    "goal": Goal(metric="score", target=0.58, mode="max"),
}


def test_a_run_that_blows_up_has_diverged_by_its_accuracy_once_its_loss_is_not_finite():
    outcome = one(parameters={"learning_rate": 5.0}, **SCORE)
    assert first(outcome).status == "diverged"
    assert not outcome.pruned
    assert first(one(parameters={"learning_rate": 0.3}, **SCORE)).status == "reached"


class AroundZero(Scored):
    """A training loss that starts near 0 and lies on both sides of it, as that of a policy."""

    def training_step(self, batch, batch_idx):
        sides = 0.5 * (-1) ** batch_idx * min(batch_idx, 1)
        loss = super().training_step(batch, batch_idx)
        return loss - loss.detach() + 1e-3 + sides


def test_a_healthy_run_whose_loss_lies_around_0_has_not_diverged():
    arguments = {"parameters": {"learning_rate": 0.3}}
    found = one(make_module=lambda p: AroundZero(**p), goal=SCORE["goal"], **arguments)
    assert first(found) == first(one(**arguments, **SCORE))
    assert first(found).status == "reached"


class NotFinite(cheap.Regression):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if batch_idx == 4 else loss


def test_a_loss_that_is_not_finite_has_diverged_whatever_is_validated():
    outcome = one(
        make_module=lambda p: NotFinite(**p),
        validate_every=10**4,
        budget=Budget(steps=2000, examples=10**5),
    )
    assert {found.status for found in outcome.goals.values()} == {"diverged"}


class Accumulating(cheap.Regression):
    def configure_optimizers(self):
        # the budget: a schedule of the module's must not see where runs are pruned
        assert self.trainer.max_steps == 64
        return super().configure_optimizers()


def test_accumulation_counts_optimizer_steps():
    def half(global_size, seed):
        return cheap.make_data(global_size // 2, seed)

    losses, _ = by_hand(32, 0.03, 0)
    goal = Goal(metric="loss", target=0.8, on="train")
    outcome = one(
        make_module=lambda p: Accumulating(**p),
        make_data=half,
        goal=goal,
        budget=Budget(steps=64),
        cap=50,
        trainer_options={"accumulate_grad_batches": 2},
        parameters={"learning_rate": 0.03},
    )
    assert first(outcome).steps == pytest.approx(crossing(losses, 0.8), rel=1e-4)


def test_noise_scales_are_those_of_the_reruns():
    outcome = one(
        phase=RERUN,
        size=8,
        goal=Goal(metric="val_loss", target=0.52),
        parameters={"learning_rate": 0.02},
    )
    assert set(outcome.noise) == {"b_simple_start", "b_simple_average", "b_simple_end"}
    assert all(2 < value < 2000 for value in outcome.noise.values())
    assert one(phase=SEARCH, size=8).noise == {}
    assert one(phase=RERUN, size=8, noise_scale=False).noise == {}


def loss_of(module, batch):
    return module.loss(batch)


def test_b_noise_where_asked():
    """Here with the curvature at every step, which a short run needs to resolve it."""
    asked = {"geometry": ("euclidean", "hessian"), "loss_fn": loss_of, "every_n_steps": 1}
    goal = Goal(metric="val_loss", target=0.52)
    outcome = one(
        phase=RERUN,
        size=64,
        goal=goal,
        parameters={"learning_rate": 0.02},
        noise_scale=asked,
    )
    assert {"b_noise_start", "b_noise_average", "b_noise_end", "b_simple_end"} <= set(outcome.noise)
    assert all(1 < value < 2000 for value in outcome.noise.values())


class Normed(cheap.Regression):
    def __init__(self, learning_rate):
        super().__init__(learning_rate)
        self.layer = nn.Sequential(nn.BatchNorm1d(6), self.layer)


def test_a_model_that_cannot_be_measured_is_trained_all_the_same():
    outcome = one(make_module=lambda p: Normed(**p), phase=RERUN)
    assert first(outcome).status == "reached"
    assert outcome.noise == {}
    assert outcome.warning.startswith("the noise scale was not measured: ")


def test_nothing_stays_behind(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    threads = torch.get_num_threads()
    before = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    one(workers=Workers(count=0, threads=threads + 1))
    assert before == [
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    ]
    assert os.environ["PL_GLOBAL_SEED"] == "7"
    monkeypatch.delenv("PL_GLOBAL_SEED")
    one()
    assert "PL_GLOBAL_SEED" not in os.environ
    assert torch.get_num_threads() == threads


class Data(L.LightningDataModule):
    def __init__(self, global_size, seed):
        super().__init__()
        self.loaders = cheap.make_data(global_size, seed)

    def train_dataloader(self):
        return self.loaders[0]

    def val_dataloader(self):
        return self.loaders[1]


class Twin(cheap.Body, pytorch_lightning.LightningModule):
    pass


class TwinData(pytorch_lightning.LightningDataModule):
    def __init__(self, global_size, seed):
        super().__init__()
        train, val = cheap.make_data(global_size, seed)
        self.train_dataloader = lambda: train
        self.val_dataloader = lambda: val


def test_the_twin_package_trains_the_same():
    twin = {"make_module": lambda p: Twin(**p), "make_data": TwinData}
    assert one(phase=RERUN, size=8, **twin) == one(phase=RERUN, size=8)


def test_data_may_come_in_three_forms():
    assert one(make_data=Data) == one()
    train_only = Goal(metric="loss", target=0.7, on="train")
    assert one(goal=train_only) == one(
        goal=train_only,
        make_data=lambda size, seed: cheap.make_data(size, seed)[0],
    )


class Silent(cheap.Regression):
    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.filterwarnings("ignore:Total length of `.*Loader` across ranks is zero")
def test_errors_of_a_run_say_which_run_and_why():
    with pytest.raises(
        TrialError,
        match=r"search run of trial 0 at global size 4 .*'val_loss' is not among the logged ones",
    ):
        cheap.study(MEMORY(), make_module=lambda p: Silent(**p)).run()
    with pytest.raises(
        ValueError,
        match=r"global size 1024 gave no reading of .*make_data gives no batch of that size",
    ):
        one(size=1024, goal=Goal(metric="loss", target=0.7, on="train"))


def test_seeds_and_numbers_of_runs():
    seen = []

    def make_data(global_size, seed):
        seen.append((global_size, seed))
        return cheap.make_data(global_size, seed)

    study = cheap.study(
        MEMORY(),
        make_data=make_data,
        goal=Goal(metric="val_loss", target=0.7),
        batch_sizes=[8, 16],
        search=Search(trials=6, seeds=2, seed=3, widen=0),
    )
    result = study.run()
    seeds = [3] * 6 + [100_003] * 3 + [200_003] * 2 + [4, 5]
    assert sorted(seen) == sorted((size, seed) for size in (8, 16) for seed in seeds)
    runs = [(row["phase"], row["trial"], row["seed"]) for row in result.table[:6]]
    assert runs == [("search", i, 3) for i in range(6)]
    at_8 = [row for row in result.table if row["global_size"] == 8]
    reruns = [row for row in at_8 if row["phase"] == RERUN]
    (best,) = (row for row in at_8 if row["best"])
    assert (best["phase"], best["seed"]) == (SEARCH, 3)
    last = [row["trial"] for row in at_8 if row["seed"] == 200_003]
    assert best["trial"] in last
    assert {row["learning_rate"] for row in reruns} == {best["learning_rate"]}


def test_optuna_shows_the_search():
    storage = MEMORY()
    result = cheap.study(storage, batch_sizes=[8], name="digits").run()
    found = optuna.load_study(storage=storage, study_name="digits/global_size=8")
    rows = [row for row in result.table if row["goal"] == "val_loss <= 0.7"]
    search = [row for row in rows if row["phase"] == SEARCH]
    quickest = min(search, key=lambda row: row["steps"] or 10**9)
    assert found.best_trial.params == {"learning_rate": quickest["learning_rate"]}
    assert found.best_value == quickest["steps"]
    others = optuna.load_study(storage=storage, study_name="digits/global_size=8/rerun")
    runs = {(row["phase"], row["trial"], row["seed"]) for row in result.table}
    assert len(found.trials) + len(others.trials) == len(runs)


def test_a_momentum_reaches_the_module_and_the_table_as_a_momentum():
    storage = MEMORY()
    given = []

    def make_module(parameters):
        given.append(parameters["momentum"])
        return cheap.make_module(parameters)

    space = {"learning_rate": (0.01, 0.5), "momentum": Momentum(0.0, 0.95)}
    one = {"batch_sizes": [32], "search_space": space, "noise_scale": False}
    table = cheap.study(storage, make_module=make_module, **one).run().table
    assert {row["param_momentum"] for row in table} == set(given)
    assert all(0 <= momentum <= 0.95 for momentum in given)
    search = optuna.load_study(storage=storage, study_name="study/global_size=32")
    shown = [1 - trial.params["1 - momentum"] for trial in search.trials]
    assert shown == pytest.approx(given[: len(shown)])


def test_a_run_is_stored_with_all_its_readings():
    storage = MEMORY()
    table = cheap.study(storage, batch_sizes=[32], search=Search(trials=1, seeds=1)).run().table
    search = optuna.load_study(storage=storage, study_name="study/global_size=32")
    key, record = unpack(search.trials[0].user_attrs)
    assert key == (32, SEARCH, 0, 0)
    readings = record.readings["validation", "val_loss"]
    assert readings.steps == tuple(range(record.trained + 1))
    (row,) = (row for row in table if row["phase"] == SEARCH and row["goal"] == "val_loss <= 0.55")
    assert min(readings.values) == row["best_value"]
    assert readings.values[-1] <= 0.55 < readings.values[-2]
    assert row["trained_steps"] == record.trained == readings.steps[-1]
    settings = search.user_attrs["settings"]
    kept = {name: settings[name] for name in ("format", "trials", "seeds", "seed", "prune")}
    assert kept == {"format": 2, "trials": 1, "seeds": 1, "seed": 0, "prune": True}


def test_a_journal_in_use_is_refused(tmp_path):
    with (
        opened(tmp_path / "a.journal", "study"),
        pytest.raises(StorageError, match=r"a\.journal is in use by another run"),
    ):
        cheap.study(tmp_path / "a.journal").run()


def test_the_journal_is_named_after_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cheap.study(None, name="mine", batch_sizes=[64], search=Search(trials=1, seeds=1)).run()
    assert (tmp_path / "mine.journal").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"make_module": None},
            TypeError,
            "make_module must be a function from parameters to a LightningModule, got None",
        ),
        (
            {"make_data": [1]},
            TypeError,
            r"make_data must be a function \(global_size, seed\) -> loaders, got \[1\]",
        ),
        ({"goal": []}, TypeError, "goal must be a Goal"),
        ({"goal": None}, TypeError, r"goal must be a Goal or a sequence of them, got \(None,\)"),
        (
            {"goal": "val_loss"},
            TypeError,
            r"goal must be a Goal or a sequence of them, got \('val_loss',\)",
        ),
        ({"batch_sizes": 8}, TypeError, "batch_sizes must be a sequence of ints >= 1, .* got 8"),
        ({"search_space": None}, TypeError, "search_space must be a dict of ranges, .* got None"),
        (
            {"goal": [Goal(metric="a", target=1), Goal(metric="a", target=1)]},
            ValueError,
            "different names, got .*Goal\\(name",
        ),
        ({"batch_sizes": []}, ValueError, "batch_sizes must hold different sizes"),
        (
            {"batch_sizes": [8, 8]},
            ValueError,
            r"batch_sizes must hold different sizes, one or more, got \[8, 8\]",
        ),
        ({"batch_sizes": [0]}, ValueError, "every one of batch_sizes must be an int >= 1, got 0"),
        (
            {"batch_sizes": [8.0]},
            TypeError,
            "every one of batch_sizes must be an int >= 1, got 8.0",
        ),
        (
            {"batch_sizes": [8, 8192]},
            ValueError,
            r"budget of 4096 examples does not hold one batch of the sizes \[8192\]",
        ),
        ({"budget": 100}, TypeError, "budget must be a Budget.*got 100"),
        (
            {"search_space": {"lr": (0.1, 1.0)}},
            ValueError,
            r"search_space must hold 'learning_rate', got \['lr'\]",
        ),
        ({"search_space": {"learning_rate": 0.1}}, TypeError, "got 0.1"),
        (
            {"validate_every": 10**6},
            ValueError,
            "validate_every must not exceed the budget, got 1000000",
        ),
        ({"validate_every": 0}, ValueError, "validate_every must be an int >= 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        cheap.study(None, **changes)


CALL = "BatchSizeStudy"


def bad(record, arguments, error, message):
    return pytest.param(record, arguments, error, message, id=f"{arguments}")


@pytest.mark.parametrize(
    ("record", "arguments", "error", "message"),
    [
        bad(Search, {"trials": 0}, ValueError, "trials must be an int >= 1, got 0"),
        bad(Search, {"seeds": True}, TypeError, "seeds must be an int >= 1, got True"),
        bad(Search, {"widen": -1}, ValueError, "widen must be an int >= 0, got -1"),
        bad(
            Search, {"refine": 4}, TypeError, "refine was replaced by successive halving: leave it"
        ),
        bad(
            Search, {"seeds": 10_001}, ValueError, "trials and seeds must be at most 10000, got tr"
        ),
        bad(Search, {"seed": -1}, ValueError, "seed must be an int >= 0, got -1"),
        bad(Workers, {"count": -1}, ValueError, "count must be an int >= 0, got -1"),
        bad(Workers, {"threads": 0}, ValueError, "threads must be an int >= 1, got 0"),
    ],
)
def test_bad_records_are_refused(record, arguments, error, message):
    with pytest.raises(error, match=message):
        record(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"trials": 32},
            "trials is an argument of Search: BatchSizeStudy(search=Search(trials=32)).",
        ),
        (
            {"seeds": 2, "trials": 4},
            f"trials and seeds are arguments of Search: {CALL}(search=Search(trials=4, seeds=2)).",
        ),
        (
            {"threads": 2},
            "threads is an argument of Workers: BatchSizeStudy(workers=Workers(threads=2)).",
        ),
        (
            {"workers": 4, "threads": 2},
            f"workers must be a Workers, got 4: {CALL}(workers=Workers(count=4, threads=2)).",
        ),
        ({"search": 16}, "search must be a Search, such as Search(trials=16), got 16."),
        ({"workers": None}, "workers must be a Workers, such as Workers(count=2), got None."),
        (
            {"refine": 4},
            "refine was replaced by successive halving: leave it out. The better half of the "
            "trials is now run again with a second seed, the better half of these with a third, "
            "and so on, which costs about as many runs again as `trials`.",
        ),
        ({"trails": 3}, "BatchSizeStudy() got an unexpected keyword argument 'trails'"),
    ],
)
def test_arguments_of_a_record_are_refused_with_its_name(arguments, message):
    with pytest.raises(TypeError) as refused:
        cheap.study(None, **arguments)
    assert str(refused.value) == message


def test_the_call_in_such_an_error_is_right():
    study = cheap.study(None, search=Search(trials=32), workers=Workers(count=4, threads=2))
    assert study.search == Search(trials=32, seeds=5, seed=0, prune=True)
    assert (study.workers.count, study.recipe.threads) == (4, 2)


def test_sizes_of_numpy_and_of_a_generator():
    assert cheap.study(None, batch_sizes=2 ** np.arange(5, 2, -1)).batch_sizes == (8, 16, 32)
    sizes = cheap.study(None, batch_sizes=np.array([8, 16])).batch_sizes
    assert all(type(size) is int for size in sizes)
    assert cheap.study(None, batch_sizes=(2**k for k in (3, 4))).batch_sizes == (8, 16)


@pytest.mark.parametrize(
    ("storage", "message"),
    [(3, "must be a path, a URL.* got 3"), (".", "journal file, but . is a folder")],
)
def test_bad_storages_are_refused(storage, message):
    with pytest.raises(StorageError, match=message):
        cheap.study(storage).run()


@pytest.mark.slow
def test_the_extra_is_named_where_optuna_is_missing():
    missing = "import sys; sys.modules['optuna'] = None"
    code = f"{missing}; import lightning_noise; lightning_noise.BatchSizeStudy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: lightning_noise.study needs more packages" in done.stderr
    assert "pip install -e '.[study]'" in done.stderr


def test_worker_processes_need_functions_that_can_be_sent(tmp_path):
    with pytest.raises(TrialError, match=r"top of a module.*workers=Workers\(count=0\).*picklable"):
        cheap.study(
            tmp_path / "a.journal",
            make_module=lambda p: cheap.make_module(p),
            workers=Workers(count=1),
        ).run()


@pytest.mark.slow
def test_errors_in_a_worker_process_arrive_with_their_traceback(tmp_path):
    with pytest.raises(
        TrialError,
        match=r"trial 0 at global size 4 .*\n(.*\n)*.*OverflowError: too much",
    ):
        cheap.study(tmp_path / "a.journal", make_module=overflow, workers=Workers(count=1)).run()


def overflow(parameters):
    raise OverflowError("too much")


def test_a_recipe_can_be_sent_to_another_process():
    recipe = cheap.study(None).recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
