"""One study, several processes, a real PostgreSQL server.

The rules themselves are tested without a server in ``test_shared.py``.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_noise.__main__ import main
from lightning_noise.study import StorageError, opening, shared_database
from lightning_noise.study.shared_database import SharedDatabase
from lightning_noise.study.status import status
from lightning_noise.study.task import SEARCH, RunKey
from testing import postgres_server
from testing.killed_study import study
from testing.small_studies import small

ROOT = Path(__file__).parents[2]
KEY = RunKey(global_size=32, phase=SEARCH, trial=0, seed=0)

pytest.importorskip("psycopg", reason="needs the extra `postgres`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        postgres_server.binaries() is None,
        reason="PostgreSQL is not installed; test_shared.py tests the same rules on SQLite",
    ),
]

HOST = """
import sys
from pathlib import Path
from lightning_noise.study import Workers
from testing.killed_study import study

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    folder = Path(sys.argv[1])
    print(len(study(folder, sys.argv[2], workers=Workers(count=0)).run().table))
"""


@pytest.fixture(scope="module")
def server():
    with postgres_server.running() as found:
        yield found


@pytest.fixture
def url(server, request):
    return server.create(f"a{abs(hash(request.node.name))}")


def stored(server, url):
    database = url.rpartition("/")[2]
    statement = "SELECT value_json FROM trial_user_attributes WHERE key = 'run'"
    return [row for (row,) in server.ask(statement, database)]


def test_processes_that_start_at_once_share_the_runs(server, url, tmp_path):
    """One of them is killed when the seventh run begins."""
    want = study(tmp_path, tmp_path / "a.journal").run().table
    (tmp_path / "runs").unlink()
    (tmp_path / "kill-7").write_text("self")
    (tmp_path / "host.py").write_text(HOST)
    call = [sys.executable, str(tmp_path / "host.py"), str(tmp_path), url]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(call, env=environment, **streams) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=240)[0] for process in both)
    assert said == ["", f"{len(want)}\n"]
    assert sorted(process.returncode for process in both) == [-signal.SIGKILL, 0]
    rows = stored(server, url)
    runs = (tmp_path / "runs").read_text().split()
    assert len(set(runs)) == 2  # each of them did some
    assert len(runs) == len(rows) + 1
    assert len(rows) == len(set(rows))
    assert study(tmp_path, url).run().table == want


def test_a_silent_process_loses_its_claims(server, url, monkeypatch):
    monkeypatch.setattr("lightning_noise.study.advisory.SILENCE", 1)
    monkeypatch.setattr(shared_database, "BEAT", 60.0)
    silent = SharedDatabase(url, "study")
    other = SharedDatabase(url, "study")
    assert silent.claim(KEY)
    assert status(url) == "there is no study in this storage yet"
    assert list(other.holders("study", [KEY])) == [KEY]
    deadline = time.monotonic() + 30
    while not other.patiently(lambda: other.claim(KEY)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    silent.close()
    other.close()


def test_a_restarted_server_costs_nothing(server, url, monkeypatch):
    monkeypatch.setattr(shared_database, "RETRY", 0.1)
    first = SharedDatabase(url, "study")
    assert first.claim(KEY)
    server.stop("immediate")
    server.start()
    first.patiently(first._renew)
    assert first.holders("study", [KEY])
    first.close()


def test_a_user_who_may_only_read_can_read_a_finished_study(server, url):
    table = small(url).run().table
    database = url.rpartition("/")[2]
    server.ask("CREATE USER reader")
    server.ask("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database)
    reading = url.replace("postgres@", "reader@")
    assert small(reading).run().table == table
    with pytest.raises(StorageError, match=r"the user of storage .*reader@.* may not write to it"):
        small(reading, batch_sizes=[16]).run()


def test_status_names_the_process_of_a_run(server, url, capsys):
    small(url).run()
    study = small(url, batch_sizes=[16, 32])
    with opening.opened(url, "study") as found:
        plan = study._plan(16)
        study._shelf(found, plan)
        assert found.claims.claim(plan.next_tasks({})[0].key)
        assert main(["status", url]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2].split() == ["16", "0", "3", "1", "none", "yet"]
    assert said[5].endswith(f":{os.getpid()}: search 0, seed 0, at 16")


def test_a_server_out_of_reach_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(StorageError) as refused:
        small("postgresql://me:secret@127.0.0.1:1/db").run()
    start = "Check the URL of storage postgresql://me:***@127.0.0.1:1/db and that it can be reached"
    assert str(refused.value).startswith(start)
    assert "secret" not in str(refused.value)
