"""Storages that are in use, can only be read, or are damaged."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from lightning_noise.study import StorageError, opening, owner
from lightning_noise.study.opening import opened
from lightning_noise.study.owner import owned
from testing.small_studies import small

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def folder():
    """Others than root can read it, and root may become one of them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def read_only(folder):
    """No file in ``folder`` can be written or made; root, who can all the same, is nobody."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


KINDS = pytest.mark.parametrize("kind", ["{}/a.journal", "sqlite:///{}/a.db"])


@KINDS
def test_a_finished_study_can_be_read_where_nothing_can_be_written(folder, kind):
    storage = kind.format(folder)
    table = small(storage).run().table
    with read_only(folder):
        assert small(storage).run().table == table


@KINDS
def test_an_unfinished_one_says_what_cannot_be_written(folder, kind):
    storage = kind.format(folder)
    small(storage).run()
    with (
        read_only(folder),
        pytest.raises(StorageError, match=r"a\.\w+ cannot be written \(.*Permission denied.*copy"),
    ):
        small(storage, batch_sizes=[16, 32]).run()


@KINDS
def test_a_new_one_names_the_argument(folder, kind):
    with (
        read_only(folder),
        pytest.raises(StorageError, match=r"Permission denied.*Give storage= a path that can be"),
    ):
        small(kind.format(folder)).run()


def test_a_journal_that_is_being_written_is_read_without_its_last_line(folder):
    journal = folder / "a.journal"
    table = small(journal).run().table
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "tri')
    with read_only(folder):
        assert small(journal).run().table == table


def test_a_file_system_without_locks_is_not_in_use(tmp_path, monkeypatch):
    small(tmp_path / "a.journal").run()

    def acquire(lock):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(opening.FileLock, "acquire", acquire)
    assert len(small(tmp_path / "a.journal").run().table) == 3
    with pytest.raises(StorageError, match=r"cannot be locked \(.*No locks available\)"):
        small(tmp_path / "a.journal", batch_sizes=[16]).run()


def test_a_damaged_journal_names_the_line_and_keeps_its_content(tmp_path):
    journal = tmp_path / "a.journal"
    small(journal).run()
    lines = journal.read_bytes().splitlines(keepends=True)
    content = b"".join([*lines[:5], lines[5][:20] + b"\n", *lines[6:]])
    journal.write_bytes(content)
    damage = r"is damaged: line 6 is not an entry .* \(head -n 5 .*a\.journal"
    with pytest.raises(StorageError, match=damage):
        small(journal).run()
    assert journal.read_bytes() == content


@pytest.mark.parametrize("content", [b"goal,steps\na,3", b"SQLite format 3\0", b"[1]\n", b"3"])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(StorageError, match=r"Give another storage: .*a\.csv is not a journal"):
        small(tmp_path / "a.csv").run()
    assert (tmp_path / "a.csv").read_bytes() == content


def test_json_that_is_not_optunas_is_no_journal(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n')
    with pytest.raises(StorageError, match=r"Give another storage: .*a\.json is not a journal"):
        small(tmp_path / "a.json").run()


@KINDS
def test_a_storage_in_use_is_refused(tmp_path, kind):
    storage = kind.format(tmp_path)
    with opened(storage, "study"), pytest.raises(StorageError, match="is in use by another run"):
        small(storage).run()


TWICE = """
import sys
from testing.small_studies import small
from lightning_noise.study import StorageError

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(len(small(sys.argv[1], batch_sizes=[8, 16, 32]).run().table))
    except StorageError as error:
        print("StorageError", error)
"""


@pytest.mark.slow
def test_of_two_processes_on_a_new_database_one_runs_the_study(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    call = [sys.executable, str(tmp_path / "twice.py"), f"sqlite:///{tmp_path / 'a.db'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True}
    both = [subprocess.Popen(call, env=environment, **streams) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=240)[0] for process in both)
    assert said[0] == "9\n"
    assert said[1].startswith("StorageError storage ")
    assert "a.db is in use by another run of a study" in said[1]


SILENCE = 2.0  # a thread of a busy machine may be late by a second


@pytest.fixture
def quick(monkeypatch):
    """Beats and waits of an owner that a test can wait for."""
    for name, seconds in {"BEAT": 0.05, "SILENCE": SILENCE, "SETTLE": 0.1}.items():
        monkeypatch.setattr(owner, name, seconds)


@pytest.fixture
def shared(tmp_path, quick):
    """A storage that several processes can reach, and no lock file beside it."""
    return optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'a.db'}")


def test_a_shared_storage_has_one_owner(shared):
    with (
        owned(shared, "study"),
        pytest.raises(StorageError, match=rf"process {os.getpid()} on .* is running study 'study'"),
    ):
        small(shared).run()
    assert len(small(shared).run().table) == 3


def test_studies_of_other_names_share_a_storage(shared):
    with owned(shared, "study"):
        assert len(small(shared, name="other").run().table) == 3


def test_a_killed_owner_is_followed_after_a_while(shared, monkeypatch, caplog):
    with monkeypatch.context() as killed:
        killed.setattr(owner.Owner, "close", lambda self: self._ended.set())
        with owned(shared, "study"):
            pass
    start = time.monotonic()
    assert len(small(shared).run().table) == 3
    assert time.monotonic() - start > SILENCE
    assert "was running study 'study' in this storage; waiting for up to 2 s" in caplog.text


def test_an_owner_that_lost_its_place_writes_nothing(shared):
    study = small(shared)
    with opened(shared, "study") as first:
        record = optuna.load_study(storage=shared, study_name="study/owner")
        record.set_user_attr("owner", {"token": "other", "beats": 1, "process": "process 1 on b"})
        shelf = study._shelf
        with pytest.raises(StorageError, match="process 1 on b is running study 'study'"):
            shelf(first, study._plan(32))
    assert record.user_attrs["owner"]["token"] == "other"
    assert [study.study_name for study in shared.get_all_studies()] == ["study/owner"]


def test_of_two_that_start_at_once_one_becomes_the_owner(shared):
    said = []
    everyone_asked = threading.Event()

    def start():
        try:
            with owned(shared, "study"):
                said.append("runs")
                everyone_asked.wait(timeout=60)
        except StorageError:
            said.append("refused")
            if said.count("refused") == 3:
                everyone_asked.set()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["refused"] * 3 + ["runs"]


def test_no_thread_stays_behind(shared):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), owned(shared, "study"):
        assert threading.active_count() == before + 1
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_a_shared_storage_that_cannot_be_written_can_be_read(folder, quick):
    url = f"sqlite:///{folder}/a.db"
    table = small(url).run().table
    with read_only(folder):
        shared = optuna.storages.RDBStorage(url)
        assert small(shared).run().table == table
        with pytest.raises(StorageError, match="the storage cannot be written"):
            small(shared, batch_sizes=[16]).run()


def test_a_database_out_of_reach_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr(opening, "get_storage", lambda url: 1 / 0)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(StorageError) as refused:
        small("oracle://me:secret@host/db").run()
    check, reason = str(refused.value).split(" and that it can be reached: ")
    assert check == "Check the URL of storage oracle://me:***@host/db"
    assert reason == "ZeroDivisionError: division by zero"


def test_a_missing_driver_is_named():
    pytest.importorskip("sqlalchemy")
    with pytest.raises(StorageError, match="Install the driver of storage oracle"):
        small("oracle+cx_oracle://host/db").run()
