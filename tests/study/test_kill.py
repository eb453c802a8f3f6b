"""kill -9 at any moment loses at most the running trials, and does not change the table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_noise.study import TrialError, Workers, runner
from testing.killed_study import study

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def runs(folder):
    return (folder / "runs").read_text().split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    table = study(folder, folder / "a.journal").run().table
    return table, len(runs(folder))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_worker_is_replaced_and_its_trial_done_again(tmp_path, undisturbed):
    (tmp_path / "kill-9").write_text("self")
    sqlite = f"sqlite:///{tmp_path / 'a.db'}"
    result = study(tmp_path, sqlite, workers=Workers(count=2)).run()
    assert result.table == undisturbed[0]
    assert len(runs(tmp_path)) == undisturbed[1] + 1  # the run that was killed
    assert study(tmp_path, sqlite).run().table == undisturbed[0]  # read back; nothing is run again
    assert len(runs(tmp_path)) == undisturbed[1] + 1


def test_a_killed_parent_loses_the_running_trials_alone(tmp_path, undisturbed):
    start = f"""
from pathlib import Path
from lightning_noise.study import Workers
from testing.killed_study import study
if __name__ == "__main__":
    study(Path({str(tmp_path)!r}), {str(tmp_path / "a.journal")!r}, workers=Workers(count=2)).run()
"""
    (tmp_path / "start.py").write_text(start)
    (tmp_path / "kill-13").write_text("parent")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(
        [sys.executable, tmp_path / "start.py"],
        env=environment,
        cwd=ROOT,
        timeout=240,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in runs(tmp_path)):  # no worker outlives its parent
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert study(tmp_path, tmp_path / "a.journal").run().table == undisturbed[0]
    assert undisturbed[1] < len(runs(tmp_path)) <= undisturbed[1] + 2  # two runs were under way


def test_half_a_line_in_the_journal_costs_one_run(tmp_path, undisturbed):
    journal = tmp_path / "a.journal"
    study(tmp_path, journal).run()
    before = len(runs(tmp_path))
    content = journal.read_bytes()
    journal.write_bytes(content[:-40])  # the process died while it wrote the last run
    assert study(tmp_path, journal).run().table == undisturbed[0]
    assert len(runs(tmp_path)) == before + 1


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ATTEMPTS", 2)
    for run in (1, 2):
        (tmp_path / f"kill-{run}").write_text("self")
    with pytest.raises(
        TrialError,
        match=r"search run of trial 0 at global size 8 .* died 2 times.*exit code -9",
    ):
        study(tmp_path, tmp_path / "a.journal", workers=Workers(count=1)).run()
    assert not any(alive(pid) for pid in runs(tmp_path))
