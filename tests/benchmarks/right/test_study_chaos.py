"""The benchmark of attacked studies: what it needs, what it counts, and how it ends."""

import pytest

from benchmarks.harness.command import main
from benchmarks.right import chaos, study_chaos

ROW = study_chaos.Row(
    seed=3,
    processes=4,
    runs=200,
    begun=226,
    redone=26,
    kills=23,
    parents=2,
    workers=1,
    pauses=2,
    restarts=2,
    taken_over=1,
    stored=200,
    duplicated=0,
    lost=0,
    same_tables=4,
    seconds=171,
)


def test_without_a_server_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(study_chaos, "binaries", lambda: None)
    with pytest.raises(SystemExit):
        main(study_chaos.BENCHMARK, ["--quick"])
    text = "study_chaos cannot run here: PostgreSQL is not installed: apt-get install postgresql"
    assert text in capsys.readouterr().err


def test_a_line_holds_what_happened_and_what_came_of_it():
    line = study_chaos.table([ROW]).splitlines()[-1]
    assert line == "| 3 | 200 | 23 (2, 1) | 2 (1) | 2 | 226 | 26 | 200 | 0 | 0 | 4 of 4 |"


def test_a_seed_that_the_file_has_is_not_attacked_again():
    done = {(1,): [ROW], (2,): [ROW]}
    assert list(study_chaos.measure(study_chaos.Options(seeds=2), done)) == []


class Host:
    """A process that nothing happens to."""

    pid = 0

    def is_alive(self):
        return True


class Gone:
    """The process that has started this one, and has been killed."""

    def is_alive(self):
        return False


def test_an_attack_ends_with_the_process_that_has_started_it(monkeypatch, tmp_path):
    monkeypatch.setattr(chaos.Chaos, "_start", lambda self, number: Host())
    monkeypatch.setattr(chaos.multiprocessing, "parent_process", Gone)
    monkeypatch.setattr(chaos, "DEADLINE", 2.0)
    attacked = chaos.Chaos(None, tmp_path, "", 1, chaos.SIZES["tiny"])
    before = chaos.time.monotonic()
    attacked.happen(8)
    assert chaos.time.monotonic() - before < 1.0
