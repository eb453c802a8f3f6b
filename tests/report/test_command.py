"""The command line, as its user runs it: in a process of its own once, then in this one."""

import os
import subprocess
import sys

import pytest

import lightning_noise
from lightning_noise.__main__ import main
from lightning_noise.report.table import write_table
from testing import small_studies
from testing.launch import ROOT
from testing.synthetic_studies import study


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "study.csv"
    write_table(path, [*study(), *study(goal="loss < 1", harder=4, b_crit=900, seed=1)])
    return path


def small(tmp_path, *, b_crit=1000, sizes=(16, 64, 256, 1024, 4096)):
    path = tmp_path / "small.csv"
    path.write_text(
        "\n".join(
            ["global_size,steps", *(f"{size},{100 * (1 + b_crit / size)}" for size in sizes), ""],
        ),
    )
    return path


@pytest.mark.slow
def test_fit_in_a_process(tmp_path):
    command = [sys.executable, "-m", "lightning_noise", "fit", str(small(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == [
        "the goal: 5 runs at 5 batch sizes reached it",
        "  b_crit 1000 examples, 95 % interval 1000 to 1000: twice the minimum steps and examples",
        "  minimum 100 steps, 100000 examples; residual 0.0 % (rms of ln S)",
        "  end of perfect scaling: 105, where a doubling halves the steps to within 5 %",
        "  20 % overhead: 200, where steps are 1.2 times those of perfect scaling",
    ]


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"lightning-noise {lightning_noise.__version__}\n"


def test_a_single_run_is_told_in_the_singular(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("global_size,steps\n8,100\n16,\n")
    main(["fit", str(tmp_path / "t.csv")])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "the goal: 1 run at 1 batch size reached it"
    assert said[1] == "  warning: at batch size 16, 1 of 1 run did not reach it"


def test_the_script_is_installed_under_its_name():
    settings = (ROOT / "pyproject.toml").read_text()
    assert 'lightning-noise = "lightning_noise.__main__:main"' in settings


def test_fit_of_every_goal_with_its_warnings(table, capsys):
    assert main(["fit", str(table)]) == 0
    said = capsys.readouterr().out
    assert "error 3 %: 29 runs at 10 batch sizes reached it" in said
    assert "warning: at batch size 8, 1 of 3 runs did not reach it" in said
    assert "loss < 1: 29 runs" in said
    assert main(["fit", str(table), "--goal", "loss < 1", "--confidence", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "error 3 %" not in said and "50 % interval" in said


def test_fit_that_is_refused_says_why_and_ends_with_1(tmp_path, capsys):
    assert main(["fit", str(small(tmp_path, sizes=(16, 64)))]) == 1
    said = capsys.readouterr().out.splitlines()[1]
    rule = "batch_sizes must hold at least four different sizes, got 2 (16, 64). Add"
    assert said.startswith(f"  b_crit could not be determined: {rule}")


def test_fit_names_the_missing_side(tmp_path, capsys):
    assert main(["fit", str(small(tmp_path, sizes=(16, 32, 64, 256, 512)))]) == 0
    said = capsys.readouterr().out
    assert "95 % interval at least 1000" in said
    why = "the sizes do not reach up to 4 b_crit. Add the sizes 1024, 2048, 4096."
    assert f"warning: b_crit has no upper bound: {why}" in said


@pytest.mark.slow
def test_plot_draws_a_figure_for_everything_in_the_table(table, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / "figures"
    assert main(["plot", str(table), "--out", str(out)]) == 0
    kinds = ("steps", "learning_rates", "best_rate")
    names = {f"{kind}_{goal}.png" for kind in kinds for goal in ("error_3", "loss_1")} | {
        "frontier.png",
    }
    assert {path.name for path in out.iterdir()} == names
    assert set(capsys.readouterr().out.split()) == {str(out / name) for name in names}
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_sizes_and_steps_alone_draws_what_it_can(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--out", str(tmp_path / "out"), "--format", "svg"]
    assert main(["plot", str(small(tmp_path)), *options]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "steps_the_goal.svg",
        "frontier.svg",
    }


def test_plot_without_matplotlib_says_what_to_install(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plot", str(table), "--out", str(tmp_path)]) == 2
    assert "pip install -e '.[plots]'" in capsys.readouterr().err


def test_wrong_input_is_said_in_a_line_and_ends_with_2(table, tmp_path, capsys):
    assert main(["fit", str(tmp_path / "nowhere.csv")]) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert main(["fit", str(table), "--goal", "speed"]) == 2
    rule = "--goal must be one of 'error 3 %', 'loss < 1', got 'speed'"
    assert capsys.readouterr().err == f"lightning-noise: {rule}\n"
    with pytest.raises(SystemExit, match="2"):
        main(["fit", str(table), "--confidence", "95"])
    assert "must lie in (0, 1), got 95" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_an_error_of_this_package_keeps_its_traceback(table, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr("lightning_noise.__main__.steps_curve", broken)
    monkeypatch.setattr("lightning_noise.report.draw.steps_curve", broken)
    for command in (["fit"], ["plot", "--out", str(tmp_path)]):
        with pytest.raises(ValueError, match="a bug"):
            main([*command, str(table)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"global_size,steps\n8,\n", "no run reached the goal 'the goal'"),
        (b"global_size,steps\n\xff\xfe,3\n", "is not a CSV file in UTF-8"),
        (b"global_size\n8\n", "lacks the column steps"),
    ],
)
def test_a_table_that_cannot_be_used_is_reported_in_a_line(tmp_path, capsys, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    assert main(["fit", str(tmp_path / "t.csv")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_reported_in_a_line(table, capsys):
    pytest.importorskip("matplotlib")
    assert main(["plot", str(table), "--out", str(table / "figures")]) == 2
    assert "lightning-noise: [Errno" in capsys.readouterr().err


class Result:
    """What the command uses of a StudyResult."""

    def to_csv(self, path):
        write_table(path, study())

    def summary(self):
        return "b_crit 300"


@pytest.fixture
def runs(monkeypatch):
    """Stands in for the study floor, whose own tests train; holds the calls."""
    calls = []

    class Floor:
        StudyFileError = StorageError = LookupError

        @staticmethod
        def run_file(path, *, quick, storage, accept_changes):
            calls.append((path, quick, storage, accept_changes))
            return Result()

    monkeypatch.setitem(sys.modules, "lightning_noise.study", Floor)
    return calls


def test_study_runs_the_file_stores_the_table_and_says_what_it_found(
    runs,
    tmp_path,
    capsys,
    monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    assert main(["study", "mine.py"]) == 0
    assert capsys.readouterr().out == "b_crit 300\ntable: mine.csv\n"
    options = ["--quick", "--storage", "sqlite:///s.db", "--csv", "other.csv"]
    assert main(["study", "mine.py", *options]) == 0
    assert main(["study", "mine.py", "--accept-changes"]) == 0
    url = "sqlite:///s.db"
    assert runs == [
        ("mine.py", False, None, False),
        ("mine.py", True, url, False),
        ("mine.py", False, None, True),
    ]
    assert main(["fit", "other.csv"]) == 0


def test_study_without_its_packages_or_file(runs, tmp_path, capsys, monkeypatch):
    assert main(["study", str(tmp_path / "nowhere.py")]) == 2
    assert "there is no study file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lightning_noise.study", None)
    assert main(["study", str(tmp_path / "nowhere.py")]) == 2
    assert "pip install -e '.[study]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("x = 1", "must define study = BatchSizeStudy"), (None, "is a folder")],
)
def test_a_file_without_a_study_and_a_bad_storage_are_said_in_a_line(
    tmp_path,
    capsys,
    content,
    message,
):
    file = tmp_path / "mine.py"
    file.write_text(content or "from testing import cheap\nstudy = cheap.study(None)\n")
    assert main(["study", str(file), "--storage", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_table_with_the_mark_that_excel_writes(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(
        "global_size,steps\n8,1000\n32,300\n128,120\n512,80\n2048,70\n",
        encoding="utf-8-sig",
    )
    assert main(["fit", str(tmp_path / "t.csv")]) == 0
    assert "b_crit 113 examples" in capsys.readouterr().out


def test_an_error_inside_a_study_keeps_its_traceback(runs, tmp_path, monkeypatch):
    (tmp_path / "mine.py").touch()
    monkeypatch.setattr(Result, "to_csv", lambda self, path: int("not a number"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["study", str(tmp_path / "mine.py")])


HEAVY = """
import sys
from lightning_noise.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
heavy = {"torch", "lightning", "pytorch_lightning", "torchmetrics", "optuna", "sqlalchemy"}
sys.exit(f"{status}, imported: {sorted(heavy & set(sys.modules))}")
"""


def started(tmp_path, *arguments):
    """The status of a command in a process of its own, and what heavy packages it imported."""
    call = [sys.executable, "-c", HEAVY, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        call,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "--version", "fit", "plot"])
def test_a_command_about_tables_imports_no_framework(table, tmp_path, command):
    """They start in a fraction of a second, where torch and Lightning take several."""
    arguments = [command]
    if not command.startswith("--"):
        arguments.append(str(table))
    if command == "plot":
        pytest.importorskip("matplotlib")
        arguments += ["--out", str(tmp_path), "--goal", "loss < 1"]
    assert started(tmp_path, *arguments) == "0, imported: []\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "imported"),
    [("a.journal", ["optuna"]), ("sqlite:///a.db", ["optuna", "sqlalchemy"])],
)
def test_the_status_of_a_study_needs_no_torch(tmp_path, storage, imported, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_studies.small(storage).run()
    assert started(tmp_path, "status", storage) == f"0, imported: {imported}\n"
