"""The lower bounds that `make floors` installs are those of pyproject.toml."""

from testing.launch import ROOT
from tools import floors


def test_lower_bounds_are_read_as_exact_versions(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=2.6.0"]\n[project.optional-dependencies]\n'
        'plots = ["matplotlib>=3.9"]\nexamples = []\nstudy = ["optuna>=5.0"]\n'
        'postgres = ["lightning-noise[study]", "psycopg[binary]>=3.1"]\ncli = []\n'
    )
    expected = ["torch==2.6.0", "matplotlib==3.9", "optuna==5.0", "psycopg[binary]==3.1"]
    assert floors.floors(tmp_path / "pyproject.toml") == expected


def test_the_page_names_every_lower_bound():
    page = (ROOT / "docs" / "install.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| 3.10"))
    for bound in floors.floors():
        assert bound.split("==")[1] in row, bound
