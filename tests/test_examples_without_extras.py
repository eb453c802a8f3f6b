"""The example programs where scikit-learn, of the extra ``examples``, is not installed."""

import runpy
import sys

import pytest

from testing.launch import ROOT

EXAMPLES = ROOT / "examples"
# its data are the source of Python's standard library
NEEDS_NO_EXTRA = {"char_lm.py"}
PROGRAMS = sorted({path.name for path in EXAMPLES.glob("*.py")} - NEEDS_NO_EXTRA)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_names_the_command_that_installs_its_data(name, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "digits", raising=False)
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    extras = "examples"
    if name.startswith("study_"):
        extras = "examples,study"
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / name))
    fix = f"Run pip install -e '.[{extras}]' in the repository"
    assert stopped.value.code == f"{fix}: the data come with scikit-learn, which is missing."
