"""Runs through an executor of concurrent.futures, whose workers may die."""

import os
import pickle
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from lightning_noise.study import Goal, TrialError, Workers
from lightning_noise.study.executor import do
from lightning_noise.study.runner import packed
from testing import cheap, killed_study
from testing.small_studies import small


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return small(tmp_path_factory.mktemp("reference") / "a.journal").run().table


class Here(Executor):
    """Runs at once, in this process; ``faults`` is what it answers instead, in order."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.closed = False

    def submit(self, function, *arguments):
        future = Future()
        if self.faults:
            future.set_exception(self.faults.pop(0))
        else:
            future.set_result(function(*pickle.loads(pickle.dumps(arguments))))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.closed = True


def test_the_table_is_that_of_one_process(tmp_path, table):
    executor = Here()
    assert small(tmp_path / "a.journal").run(executor=executor).table == table
    assert not executor.closed  # it belongs to the caller


def test_threads_of_one_process_take_turns(tmp_path, table):
    with ThreadPoolExecutor(3) as pool:
        assert small(tmp_path / "a.journal").run(executor=pool).table == table


def test_what_the_executor_loses_is_given_to_it_again(tmp_path, table):
    executor = Here(OSError("the node is gone"), OSError("again"))
    assert small(tmp_path / "a.journal").run(executor=executor).table == table


class Remembering(Here):
    """Answers a call that it knows with what the first one gave, as Dask does."""

    def __init__(self, *faults):
        super().__init__(*faults)
        self.known = {}

    def submit(self, function, *arguments):
        key = pickle.dumps(arguments)
        if key not in self.known:
            self.known[key] = super().submit(function, *arguments)
        return self.known[key]


def test_an_executor_that_remembers_failures_tries_again(tmp_path, table):
    executor = Remembering(OSError("the node is gone"), OSError("again"))
    assert small(tmp_path / "a.journal").run(executor=executor).table == table


def test_what_it_loses_three_times_is_given_up(tmp_path):
    executor = Here(*[OSError("the node is gone")] * 9)
    with pytest.raises(TrialError, match=r"search run of trial \d .* gave it up 3 times.*node is"):
        small(tmp_path / "a.journal").run(executor=executor)


def test_an_error_of_a_run_is_not_tried_again(tmp_path):
    goal = Goal(metric="nothing", target=1.0)
    with pytest.raises(TrialError, match="metric 'nothing' is not among the logged ones"):
        small(tmp_path / "a.journal", goal=goal).run(executor=Here())


@pytest.mark.parametrize("executor", [4, "dask", Workers()])
def test_what_is_no_executor_is_refused(tmp_path, executor):
    with pytest.raises(
        TypeError, match=r"executor must be an Executor .* ProcessPoolExecutor\(4\)"
    ):
        small(tmp_path / "a.journal").run(executor=executor)


def test_what_cannot_be_sent_is_refused_before_anything_runs(tmp_path):
    study = small(tmp_path / "a.journal", make_module=lambda parameters: None)
    with pytest.raises(TrialError, match="Define make_module and make_data at the top of a module"):
        study.run(executor=Here())


def test_the_recipe_is_unpacked_once_in_a_process(tmp_path, table):
    study = small(tmp_path / "a.journal")
    payload = packed(study.recipe)
    task = study._plan(32).next_tasks({})[0]
    first, second = do(payload, task, 0), do(payload, task, 1)
    assert first.readings == second.readings  # only their times differ


def kill_once(folder, parameters):
    """The second run kills its process, once."""
    killed_study.make_module(folder, parameters)
    return cheap.make_module(parameters)


@pytest.mark.slow
def test_a_killed_pool_keeps_the_finished_runs(tmp_path, table):
    """Workers of Python's own pool are not replaced: a new pool goes on."""
    study = small(tmp_path / "a.journal", make_module=partial(kill_once, str(tmp_path)))
    (tmp_path / "kill-2").write_text("self")
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(1, context) as pool,
        pytest.raises(TrialError, match=r"^Run the study again with a new executor: .*Broken"),
    ):
        study.run(executor=pool)
    (tmp_path / "kill-2").unlink()
    with ProcessPoolExecutor(1, context) as pool:
        assert study.run(executor=pool).table == table
    runs = (tmp_path / "runs").read_text().split()
    assert len(runs) == len(table) + 1
    assert os.getpid() not in map(int, runs)
