"""The source distribution holds every file of the project that its tests import, read or run."""

import ast
import tarfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

import lightning_noise
from testing.launch import ROOT

TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOT_SHIPPED = {"__pycache__", "runs", "lightning_logs"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with tarfile.open(archive) as members:
        return {Path(*Path(member.name).parts[1:]) for member in members if member.isfile()}


def files(path):
    """The files of a file or folder of the project, relative to it; none where nothing exists."""
    found = path.rglob("*") if path.is_dir() else [path]
    own = [one.relative_to(ROOT) for one in found if one.is_file()]
    return {one for one in own if NOT_SHIPPED.isdisjoint(one.parts)}


def imported(node):
    """The files behind an import statement."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return set()
    found = set()
    for name in names:
        place = ROOT.joinpath(*name.split("."))
        found |= files(place.with_suffix(".py")) | files(place / "__init__.py")
    return found


def joins_a_name(node):
    joins = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    return joins and isinstance(node.right, ast.Constant)


def read(node):
    """The files behind a path in the project's folder, such as ``ROOT / "docs" / "setups.md"``."""
    parts = []
    while joins_a_name(node):
        parts.insert(0, str(node.right.value))
        node = node.left
    return files(ROOT.joinpath(*parts)) if parts else set()


def needed(test):
    nodes = list(ast.walk(ast.parse(test.read_text())))
    return {test.relative_to(ROOT)}.union(*map(imported, nodes), *map(read, nodes))


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "benchmarks/results/adaptive.csv",
        "benchmarks/right/setups/setups.py",
        "docs/setups.md",
        "examples/digits.py",
        "lightning_noise/say/verdict.py",
        "pyproject.toml",
        "tests/conftest.py",
        "testing/launch.py",
    ],
)
def test_a_file_that_tests_need_is_found(name):
    assert any(Path(name) in needed(test) for test in TESTS)


def test_what_the_tests_need_is_in_the_sdist(shipped):
    missing = {}
    for test in TESTS:
        if absent := needed(test) - shipped:
            missing[str(test.relative_to(ROOT))] = sorted(map(str, absent))
    assert missing == {}


@pytest.mark.parametrize("name", ["CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt"])
def test_what_make_test_takes_is_in_the_sdist(shipped, name):
    assert Path(name) in shipped


def test_the_citation_names_this_version():
    assert f"\nversion: {lightning_noise.__version__}\n" in (ROOT / "CITATION.cff").read_text()
