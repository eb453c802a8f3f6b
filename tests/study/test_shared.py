"""A study that several processes share: claims, lost connections, and what may be written.

The rules are tested on SQLite with locks that end with a connection as a server's do.
``test_postgres.py`` has the same on a server.
"""

import threading
from types import SimpleNamespace

import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import Pool

from lightning_noise.study import Search, StorageError, advisory, shared_database, work
from lightning_noise.study.advisory import MYSQL, POSTGRES, backend
from lightning_noise.study.opening import opened
from lightning_noise.study.shared_database import ClaimLostError, SharedDatabase
from lightning_noise.study.task import RERUN, SEARCH, RunKey
from lightning_noise.study.work import Desk
from testing.fake_locks import DIALECT, Locks
from testing.small_studies import small

KEY = RunKey(global_size=32, phase=SEARCH, trial=0, seed=0)
OTHER = RunKey(global_size=32, phase=SEARCH, trial=1, seed=0)


@pytest.fixture
def locks(monkeypatch):
    """SQLite takes the place of a server."""
    found = Locks()
    monkeypatch.setitem(advisory.DIALECTS, "sqlite", DIALECT)
    monkeypatch.setattr(shared_database, "BEAT", 60.0)  # tests call _renew()
    monkeypatch.setattr(shared_database, "RETRY", 0.01)
    monkeypatch.setattr(work, "POLL", 0.01)

    def connect(connection, _):
        if found.down:
            raise OperationalError("connect", {}, ConnectionError("the server is down"))
        found.register(connection)

    def close(connection, _):
        found.forget(connection)

    sqlalchemy.event.listen(Pool, "connect", connect, insert=True)
    sqlalchemy.event.listen(Pool, "close", close)
    yield found
    sqlalchemy.event.remove(Pool, "connect", connect)
    sqlalchemy.event.remove(Pool, "close", close)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'a.db'}"


@pytest.fixture
def two(locks, url):
    """Two processes, as far as the database can see."""
    pair = [SharedDatabase(url, "study"), SharedDatabase(url, "study")]
    yield pair
    for one in pair:
        one.close()


def end(locks, database):
    """The server ends the connection of a process."""
    locks.end(database._number)


def test_a_claimed_task_is_refused_to_others_until_it_is_released(two):
    first, second = two
    assert first.claim(KEY)
    assert first.claim(KEY)  # again: it is its own
    assert not second.claim(KEY)
    assert second.claim(OTHER)
    first.release(KEY)
    assert second.claim(KEY)


def test_the_claims_of_a_process_that_ends_are_free(locks, two):
    first, second = two
    first.claim(KEY)
    end(locks, first)
    assert second.claim(KEY)


def test_claims_are_taken_again_after_the_connection_was_lost(locks, two):
    first, second = two
    first.claim(KEY)
    end(locks, first)
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        first._renew()  # notices it
    first._renew()
    assert not second.claim(KEY)


def test_after_a_reconnection_others_take_their_own_tasks_first(locks, two):
    first, second = two
    first.claim(KEY)
    second.claim(OTHER)
    for one in two:
        end(locks, one)
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            one._renew()
    second._renew()
    assert not second.claim(KEY)  # free now, and the first has not come back yet
    first._renew()
    assert locks.held == {
        first._lock("study", *KEY): first._number,
        second._lock("study", *OTHER): second._number,
    }


def test_nothing_is_written_without_the_claim(two):
    first, _ = two
    with pytest.raises(ClaimLostError, match="was lost"), first.holding(KEY):
        pytest.fail("it was not claimed")


def test_a_lost_connection_is_not_replaced_while_a_run_is_stored(locks, two):
    first, _ = two
    first.claim(KEY)
    with first.holding(KEY):
        end(locks, first)
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            first._row("SELECT 1")
        with pytest.raises(ClaimLostError, match="while a run was stored"):
            first._row("SELECT 1")
    assert tuple(first._row("SELECT 1")) == (1,)


def desk_of(stack, url):
    """A process that has opened the small study."""
    study = small(url)
    found = stack.enter_context(opened(url, "study"))
    plans, shelves, _ = study._set_up(found, accept_changes=False)
    return SimpleNamespace(desk=Desk(plans, shelves, found.claims), claims=found.claims)


@pytest.fixture
def desks(locks, url):
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield desk_of(stack, url), desk_of(stack, url)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """What every task of the small study leaves."""
    folder = tmp_path_factory.mktemp("reference")
    study = small(folder / "a.journal")
    study.run()
    with opened(folder / "a.journal", "study") as found:
        found = study._shelf(found, study._plan(32)).load()
    return {key: one for key, (one,) in found.items()}


def stored(url):
    storage = RDBStorage(url)
    runs = []
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id):
            runs.append(RunKey(*trial.user_attrs["run"]["key"]))
    storage.engine.dispose()
    return runs


def test_a_paused_process_that_awakes_stores_no_duplicate(locks, desks, records, url):
    paused, other = desks
    task = paused.desk.open_tasks()[0]
    assert paused.desk.take(task)
    end(locks, paused.claims)  # the server has not heard of it for too long
    assert other.desk.take(task)
    other.desk.keep(task, records[task.key])
    paused.desk.keep(task, records[task.key])
    assert stored(url) == [task.key]
    assert task.key in paused.desk.done


def test_a_paused_process_leaves_a_run_to_the_one_that_has_it_now(locks, desks, records, url):
    paused, other = desks
    task = paused.desk.open_tasks()[0]
    paused.desk.take(task)
    end(locks, paused.claims)
    other.desk.take(task)
    paused.desk.keep(task, records[task.key])
    assert stored(url) == []
    other.desk.keep(task, records[task.key])
    assert stored(url) == [task.key]
    assert locks.held == {}  # neither waits for it any more


def test_a_run_survives_that_the_server_restarts(locks, desks, records, url):
    first, _ = desks
    task = first.desk.open_tasks()[0]
    first.desk.take(task)
    end(locks, first.claims)
    first.desk.keep(task, records[task.key])
    assert stored(url) == [task.key]


def test_a_commit_that_was_not_confirmed_is_not_repeated(
    locks,
    desks,
    records,
    url,
    monkeypatch,
):
    first, _ = desks
    task = first.desk.open_tasks()[0]
    first.desk.take(task)
    create = RDBStorage._create_new_trial

    def cut(storage, *arguments):
        create(storage, *arguments)
        monkeypatch.setattr(RDBStorage, "_create_new_trial", create)
        end(locks, first.claims)
        raise OperationalError("COMMIT", {}, ConnectionError("no answer"))

    monkeypatch.setattr(RDBStorage, "_create_new_trial", cut)
    first.desk.keep(task, records[task.key])
    assert stored(url) == [task.key]


def test_a_task_that_another_process_has_done_meanwhile_is_not_taken(desks, records):
    first, second = desks
    task = first.desk.open_tasks()[0]
    assert second.desk.take(task)
    second.desk.keep(task, records[task.key])
    assert not first.desk.take(task)
    assert task.key in first.desk.done


def test_of_two_rows_of_a_run_the_first_counts(desks, records):
    first, second = desks
    task = first.desk.open_tasks()[0]
    shelf = first.desk._shelves[32]
    plan = first.desk.plans[0]
    for warning in ("the first", "the second"):
        record = records[task.key]._replace(warning=warning)
        shelf.keep(task, record, plan.outcome(task, {task.key: (record,)}))
    second.desk.refresh()
    assert plan.outcome(task, second.desk.done).warning == "the first"


def test_a_server_out_of_reach_is_waited_for(locks, two, monkeypatch, caplog):
    first, _ = two
    first.claim(KEY)
    end(locks, first)
    locks.down = True
    tries = []

    def ask():
        tries.append(1)
        if len(tries) == 4:
            locks.down = False
        return first._row("SELECT 1")[0]

    assert first.patiently(ask) == 1
    assert len(tries) == 5 - 1
    assert caplog.text.count("The database cannot be reached (") == 1


def test_a_server_that_stays_away_is_an_error_that_names_it(locks, two, monkeypatch):
    first, _ = two
    monkeypatch.setattr(shared_database, "OUTAGE", 0.05)
    first.claim(KEY)
    end(locks, first)
    locks.down = True
    with pytest.raises(
        StorageError, match=r"^Check the database server .* for 0\.05 s \(.*server is down"
    ):
        first.patiently(lambda: first._row("SELECT 1"))


def test_other_errors_of_the_database_are_not_waited_for(two):
    def refused():
        raise ProgrammingError("INSERT", {}, PermissionError("denied"))

    with pytest.raises(ProgrammingError, match="denied"):
        two[0].patiently(refused)


def test_a_pool_that_changes_the_connection_is_refused(two):
    first, _ = two
    first.claim(OTHER)
    first._number = 99
    with pytest.raises(StorageError, match="Give the address of the database server itself"):
        first.claim(KEY)


def test_processes_set_up_a_study_one_after_the_other(two):
    first, second = two
    entered = threading.Event()

    def enter():
        with second.alone():
            entered.set()

    with first.alone():
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


def test_two_processes_with_another_seed_do_not_share_a_name(locks, url):
    small(url).run()
    with pytest.raises(StorageError, match="other settings: seed was 0 and is 2"):
        small(url, search=Search(trials=2, seeds=1, seed=2)).run()


def test_a_process_with_more_seeds_continues_the_study(locks, url):
    small(url).run()
    assert len(small(url, search=Search(trials=2, seeds=3)).run().table) == 5


def test_no_thread_and_no_connection_stay_behind(locks, url):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), opened(url, "study") as found:
        assert found.claims.shared
        assert threading.active_count() == before + 1
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_a_storage_object_of_a_shared_database_is_shared_too(locks, url):
    storage = RDBStorage(url)
    with opened(storage, "study") as found:
        assert found.claims.shared
    storage.engine.dispose()


def test_locks_are_named_by_study_and_run():
    names = set()
    for study in ("a", "b"):
        for trial in range(3):
            for phase in (SEARCH, RERUN):
                names.add(POSTGRES.lock("db", study, *KEY._replace(trial=trial, phase=phase)))
    assert len(names) == 12
    assert all(-(2**63) <= name < 2**63 for name in names)
    assert POSTGRES.lock("db", "a", *KEY) == 847946240291320656  # the same in every process
    assert len(MYSQL.lock("db", "a", *KEY)) <= 64


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://a@b/c", "postgresql"),
        ("postgresql+psycopg2://a@b/c", "postgresql"),
        ("postgres://a@b/c", "postgresql"),
        ("mysql+pymysql://a@b/c", "mysql"),
        ("sqlite:///a.db", "sqlite"),
    ],
)
def test_the_kind_of_a_database(url, kind):
    assert backend(url) == kind
