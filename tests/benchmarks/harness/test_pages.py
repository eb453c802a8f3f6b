"""Pages are what their program makes of the files, byte for byte; the index has every benchmark."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import pages
from benchmarks.harness.rows import File
from benchmarks.harness.spec import HOME, RESULTS
from benchmarks.index import BENCHMARKS, MODULES

RUN = "run python -m benchmarks page"


@pytest.fixture(scope="module")
def tables():
    return dict(pages.tables_of(BENCHMARKS.values()))


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.name)
def test_a_page_has_the_tables_of_the_files(page, tables):
    text = page.read_bytes().decode()
    assert pages.fill(text, tables) == text, RUN


def test_pages_are_found_in_all_places():
    results, setups = HOME / "benchmarks" / "RESULTS.md", HOME / "docs" / "setups.md"
    assert {results, setups, HOME / "benchmarks" / "README.md"} <= set(pages.pages())


def test_every_table_is_shown(tables):
    shown = set(pages.tables_on_pages())
    machines = {name for name in tables if name.startswith("machine of ")}
    assert set(tables) - machines <= shown <= set(tables)


def test_a_changed_number_shows(tables):
    page = HOME / "benchmarks" / "RESULTS.md"
    text = page.read_text(encoding="utf-8")
    wrong = text.replace("| well resolved | 64 | 4×64 | 5 | 100.0 | 95.4 |", "| well resolved |")
    assert wrong != text and pages.fill(wrong, tables) == text


def test_a_table_that_nobody_has_and_one_without_end_are_refused(tables):
    with pytest.raises(ValueError, match="no benchmark has the table 'colour'"):
        pages.fill("<!-- table: colour -->\n<!-- end -->\n", tables)
    with pytest.raises(ValueError, match="has no line '<!-- end -->'"):
        pages.fill("<!-- table: coverage -->\n| a |\n", tables)


def test_every_module_with_a_benchmark_is_in_the_index():
    found = set()
    for path in (HOME / "benchmarks").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BENCHMARK":
                found.add(path)
    assert found == {Path(module.__file__) for module in MODULES}
    assert len(BENCHMARKS) == len(MODULES)


def test_every_file_of_rows_has_its_benchmark():
    own = {one.path for one in BENCHMARKS.values()}
    others = {RESULTS / f"{name}.csv" for name in ("machines", "study_digits", "study_cnn")}
    assert set(RESULTS.iterdir()) <= own | others


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_of_rows_has_plain_lines_and_known_columns(name):
    benchmark = BENCHMARKS[name]
    if not benchmark.path.exists():
        pytest.skip("not measured yet")
    assert b"\r" not in benchmark.path.read_bytes()
    assert File(benchmark, benchmark.path).rows


def python(*arguments, path):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=HOME,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_package_of_the_same_name_does_not_take_its_place(tmp_path):
    """Opacus installs one."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise RuntimeError('that of Opacus')\n")
    asked = python("-c", "import benchmarks.index as i; print(i.__file__)", path=[HOME, tmp_path])
    assert asked.stdout.strip() == str(HOME / "benchmarks" / "index.py"), asked.stderr
    # `python -m` puts the folder it is called from before all others
    listed = python("-m", "benchmarks", "list", path=[tmp_path])
    assert listed.stdout.startswith("right/coverage: Does the 95 % interval"), listed.stderr
    test = "tests/benchmarks/harness/test_rounds.py"
    tested = python("-m", "pytest", "-q", test, path=[tmp_path])
    assert tested.returncode == 0, tested.stdout
