"""Around a study: the bar, studies in files, and what importing costs."""

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

import lightning_noise
import lightning_noise.study
from lightning_noise.study import Goal, Search, run_all, run_file
from lightning_noise.study.progress import wanted
from testing import cheap

ROOT = Path(__file__).parents[2]
SMALL = {
    "batch_sizes": [32],
    "search": Search(trials=2, seeds=1),
    "noise_scale": False,
    "goal": Goal(metric="val_loss", target=0.7),
}

FILE = """
from lightning_noise.study import Goal, Search, Workers
from testing import cheap

SMALL = {"batch_sizes": [32], "noise_scale": False, "workers": Workers(count=1)}

def make_module(parameters):
    return cheap.Regression(**parameters)

def make_study(quick):
    goal = Goal(metric="val_loss", target=0.7)
    search = Search(trials=1 if quick else 2, seeds=1)
    return cheap.study(None, make_module=make_module, goal=goal, search=search, **SMALL)
"""


@pytest.mark.slow
@pytest.mark.traced  # what workers do happens in no other process
def test_a_study_in_a_file_runs_in_worker_processes(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    result = run_file(tmp_path / "mine.py", quick=True, storage=tmp_path / "a.journal")
    assert [row["phase"] for row in result.table] == ["search", "rerun"]
    assert (tmp_path / "a.journal").exists()


def test_a_fixed_study_in_a_file(tmp_path):
    here = FILE.replace("count=1", "count=0")
    (tmp_path / "fixed.py").write_text(f"{here}\nstudy = make_study(False)\ndel make_study\n")
    result = run_file(str(tmp_path / "fixed.py"), storage=tmp_path / "a.journal")
    assert len(result.table) == 3
    with pytest.raises(ValueError, match=r"quick needs a function make_study\(quick\)"):
        run_file(tmp_path / "fixed.py", quick=True)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x = 1", ValueError, "must define study = BatchSizeStudy.* got None"),
        ("study = []", ValueError, r"must define study = .* got \[\]"),
        ("study = [1]", ValueError, r"must define study = .* got \[1\]"),
        ("1 / 0", ZeroDivisionError, "division"),
    ],
)
def test_files_without_a_study_are_refused(tmp_path, text, error, message):
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # a file that fails is not taken for loaded
        with pytest.raises(error, match=message):
            run_file(tmp_path / "bad.py")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study file"):
        run_file(tmp_path / "none.py")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"ends in \.py"):
        run_file(tmp_path / "a.txt")


def test_several_studies_join_their_tables():
    storage = optuna.storages.InMemoryStorage()
    a = cheap.study(
        storage,
        **{**SMALL, "name": "a", "goal": Goal(metric="val_loss", target=0.7, name="A")},
    )
    b = cheap.study(
        storage,
        **{**SMALL, "name": "b", "goal": Goal(metric="val_loss", target=0.6, name="B")},
    )
    both = run_all([a, b])
    assert both.goals == ["A", "B"]
    assert list(both.table) == [*a.run().table, *b.run().table]
    with pytest.raises(ValueError, match=r"must differ in the names, got \['a', 'a'\]"):
        run_all([a, a])
    with pytest.raises(ValueError, match="must differ in the names of their goals"):
        run_all([a, cheap.study(storage, **{**SMALL, "name": "c", "goal": a.goals})])


def test_a_storage_for_one_call_leaves_that_of_the_study(tmp_path):
    study = cheap.study(tmp_path / "own.journal", **SMALL)
    run_all([study], storage=tmp_path / "other.journal")
    assert study.storage == tmp_path / "own.journal"
    assert [path.name for path in tmp_path.glob("*.journal")] == ["other.journal"]


def shown(**changes):
    cheap.study(optuna.storages.InMemoryStorage(), **{**SMALL, "progress": True, **changes}).run()


def test_on_a_terminal_the_bar_shows_phase_size_goals_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown(name="digits")
    frames = capsys.readouterr().err.split("\r")
    assert "digits:   0%" in frames[1]
    assert "| 0/3 runs [00:00, search at 32; reached val_loss <= 0.7 0/1]" in frames[1]
    texts = [frame.split("runs [")[1] for frame in frames if "runs [" in frame]
    assert any("search at 32; reached val_loss <= 0.7 1/1; " in text for text in texts)
    assert any("rerun at 32; " in text and text.rstrip().endswith(" left]") for text in texts)
    assert "digits: 100%" in frames[-1] and "3/3 runs" in frames[-1]
    assert frames[-1].rstrip().endswith("reached val_loss <= 0.7 1/1]")


def test_elsewhere_progress_is_lines_without_control_characters(capsys):
    shown(name="digits")
    written = capsys.readouterr().err
    assert written.splitlines() == [
        "digits: 0/3 runs; search at 32; reached val_loss <= 0.7 0/1",
        "digits: 3/3 runs; reached val_loss <= 0.7 1/1",
    ]
    assert written.replace("\n", "").isprintable()


def test_a_line_is_written_when_its_time_has_come(capsys, monkeypatch):
    monkeypatch.setattr("lightning_noise.study.progress.BETWEEN_LINES", 0.0)
    shown()
    done = [line.split(" ")[1] for line in capsys.readouterr().err.splitlines()]
    assert done == ["0/3", "1/3", "2/3", "3/3"]


def test_no_bar_in_continuous_integration_or_off_a_terminal(capsys, monkeypatch):
    cheap.study(optuna.storages.InMemoryStorage(), **{**SMALL, "progress": None}).run()
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert wanted(None)
    monkeypatch.setenv("CI", "true")
    assert not wanted(None)
    assert wanted(True)
    assert not wanted(False)


def test_the_study_is_found_at_the_top_too():
    assert lightning_noise.BatchSizeStudy is lightning_noise.study.BatchSizeStudy
    with pytest.raises(AttributeError, match="no attribute 'BatchSizeStudies'"):
        lightning_noise.BatchSizeStudies  # noqa: B018


@pytest.mark.parametrize("name", lightning_noise.study.__all__)
def test_every_public_name_is_documented(name):
    assert re.search(rf"[`.\s]{name}[`(]", (ROOT / "docs" / "studies.md").read_text())
    assert getattr(lightning_noise.study, name).__doc__


@pytest.mark.slow
def test_importing_the_package_imports_neither_optuna_nor_matplotlib():
    # torchmetrics imports matplotlib by itself where it finds it
    code = """
import sys, lightning.pytorch, torchmetrics
before = set(sys.modules)
import lightning_noise
found = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(found & {"optuna", "matplotlib", "sqlalchemy", "scipy"}))
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_public_names_are_not_those_of_modules():
    """The import of a module binds its name in the package, and would hide the public one."""
    rooms = {path.stem for path in Path(lightning_noise.study.__file__).parent.glob("*.py")}
    assert rooms & set(lightning_noise.study.__all__) == set()
    assert set(lightning_noise.study.__all__) == set(lightning_noise.study._ROOMS)
    assert set(lightning_noise.study.__all__) <= set(dir(lightning_noise.study))


def test_a_goal_costs_no_optuna():
    code = """
import sys
from lightning_noise.study import Budget, Goal, Search, StorageError, StudyFileError, Workers
print("optuna" in sys.modules)
"""
    call = [sys.executable, "-c", code]
    found = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
