"""The file of a benchmark: what is written, what is kept, and going on after an interruption."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from benchmarks.harness.command import main, run
from benchmarks.harness.machine import this_machine
from benchmarks.harness.rows import File
from benchmarks.harness.spec import Benchmark, Timed, option


class Row(NamedTuple):
    number: int
    name: str
    value: float
    bound: float | None = None
    good: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    numbers: tuple[int, ...] = option((1, 2, 3), "to measure", extends=True)
    scale: float = option(1.0, "of values")
    fail_at: int = option(0, "where to fail", extends=True)


@dataclass(frozen=True, kw_only=True)
class TimedOptions(Timed, Options):
    pass


MEASURED = []


def measure(options, done):
    for number in options.numbers:
        if (number,) not in done:
            if number == options.fail_at:
                raise KeyboardInterrupt
            MEASURED.append(number)
            yield [Row(number, name, number * options.scale / 3) for name in "ab"]


def benchmark(options=Options(), **changes):
    known = {
        "name": "toy",
        "question": "?",
        "about": "About.",
        "row": Row,
        "key": ("number",),
        "measure": measure,
        "options": options,
        "quick": options,
        "tables": {"toy": lambda rows: f"{len(rows)} rows"},
        "minutes": 1,
    }
    return Benchmark(**known | changes)


@pytest.fixture(autouse=True)
def nothing_measured():
    MEASURED.clear()


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "toy.csv"
    with pytest.raises(KeyboardInterrupt):
        run(benchmark(), Options(fail_at=3), path)
    before = path.read_text()
    assert before.splitlines()[-1] == "2,b,0.666667,,False"
    rows = run(benchmark(), Options(), path)
    assert MEASURED == [1, 2, 3] and [row.number for row in rows] == [1, 1, 2, 2, 3, 3]
    assert path.read_text().startswith(before)
    assert not path.with_suffix(".part").exists()


def test_the_rows_of_a_run_are_those_that_are_read_again(tmp_path):
    path = tmp_path / "toy.csv"
    rows = run(benchmark(), Options(), path)
    assert rows == run(benchmark(), Options()) == File(benchmark(), path).rows
    assert rows[0] == Row(1, "a", 0.333333, None, False)


def test_what_is_measured_again_replaces_its_rows_alone(tmp_path):
    path = tmp_path / "toy.csv"
    run(benchmark(), Options(), path)
    by_number = benchmark(order=lambda row: row.number)
    rows = run(by_number, Options(numbers=(2,), scale=3.0), path, again=True)
    assert [(row.number, row.value) for row in rows[1:5]] == [
        (1, 0.333333),
        (2, 2.0),
        (2, 2.0),
        (3, 1.0),
    ]


def test_lines_that_were_there_keep_their_text(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text("number,name,value,bound,good\n7,old,0.9957732740003848,0.10,True\n")
    rows = run(benchmark(), Options(numbers=(1,)), path)
    assert rows[0] == Row(7, "old", 0.9957732740003848, 0.1, True)
    assert "7,old,0.9957732740003848,0.10,True\n" in path.read_text()


def test_a_column_that_an_older_file_lacks_has_its_default(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text("number,name,value\n7,old,nan\n")
    (row,) = File(benchmark(), path).rows
    assert math.isnan(row.value) and (row.bound, row.good) == (None, False)
    run(benchmark(), Options(numbers=(1,)), path)
    assert path.read_text().splitlines()[:2] == ["number,name,value,bound,good", "7,old,nan,,False"]


@pytest.mark.parametrize("head", ["number,name\n7,old\n", "number,name,value,colour\n7,o,1,red\n"])
def test_a_file_of_other_columns_is_not_touched(head, tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text(head)
    with pytest.raises(ValueError, match="but toy writes number, name, value, bound, good"):
        run(benchmark(), Options(), path)
    assert path.read_text() == head


def test_times_of_two_machines_are_not_mixed(tmp_path):
    path, machines = tmp_path / "toy.csv", tmp_path / "machines.csv"
    timed = benchmark(TimedOptions())
    run(timed, TimedOptions(numbers=(1,)), path)
    here = this_machine("toy")._replace(threads=1)
    assert f"toy,{here.cpu},{here.cores}" in machines.read_text().replace('"', "")
    run(timed, TimedOptions(numbers=(1, 2)), path)
    machines.write_text(machines.read_text().replace(here.python, "3.0"))
    with pytest.raises(ValueError, match=r"rows of another machine \(.*Python 3.0.*--again"):
        run(timed, TimedOptions(), path)
    assert MEASURED == [1, 2]
    run(timed, TimedOptions(), path, again=True)
    assert MEASURED == [1, 2, 1, 2, 3] and here.python in machines.read_text()


def test_other_options_do_not_reach_the_committed_rows(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(benchmark(), ["--scale", "2"])
    assert "rows with another --scale do not belong into" in capsys.readouterr().err
    path = str(tmp_path / "toy.csv")
    rows = main(benchmark(), ["--scale", "3", "--numbers", "4", "5", "--csv", path])
    assert [row.value for row in rows] == [4.0, 4.0, 5.0, 5.0]
    assert "toy:\n\n4 rows" in capsys.readouterr().out


def test_a_quick_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(main(benchmark(), ["--quick"])) == 6
    assert list(tmp_path.iterdir()) == [] and not benchmark().path.exists()


def test_help_says_question_method_and_options(capsys):
    with pytest.raises(SystemExit):
        main(benchmark(), ["--help"])
    said = capsys.readouterr().out
    assert "?\n\nAbout." in said and "--fail-at" in said and "default: (1, 2, 3)" in said


def test_what_this_machine_lacks_is_reported_and_nothing_measured(tmp_path, capsys):
    MEASURED.clear()
    lacking = benchmark(missing=lambda: "there is no server: install one")
    with pytest.raises(SystemExit):
        main(lacking, ["--csv", str(tmp_path / "toy.csv")])
    assert "toy cannot run here: there is no server: install one" in capsys.readouterr().err
    assert MEASURED == [] and not (tmp_path / "toy.csv").exists()
