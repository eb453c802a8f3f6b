"""The notebook of the documentation runs, and its stored verdict is what it gives."""

import nbformat
import pytest

from testing.launch import ROOT
from tools import notebook

PATH = ROOT / "docs" / "digits.ipynb"


def texts(found):
    """What the cells gave as text or HTML, apart from the representation of objects."""
    outputs = [output for cell in found.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}).get("text/html") or output.get("text") for output in outputs]
    return [text for text in shown if text]


def test_the_notebook_is_stored_with_what_its_cells_gave():
    verdict, table = texts(nbformat.read(PATH, as_version=4))[-2:]
    assert verdict.startswith("<p><b>Your batch size of 32 is about")
    assert table.startswith("batch size   steps   examples")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """NotebookClient( starts a kernel: every cell runs without an error."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    verdict, table = texts(notebook.run(PATH))[-2:]
    assert verdict.startswith("<p><b>Your batch size of 32 is about")
    assert len(table.splitlines()) == 1 + 7
