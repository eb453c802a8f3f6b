"""Fits in a real kernel, where rich's progress bar and the kernel's streams affect each other."""

import json
import os
import sys

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from testing.launch import ROOT

pytestmark = pytest.mark.slow

WITHOUT_RICH = """
import sys
from importlib import metadata

def version(name, found=metadata.version):
    if name == "rich":
        raise metadata.PackageNotFoundError(name)
    return found(name)

metadata.version = version  # Lightning looks a package up here
sys.modules["rich"] = None
"""
IMPORT = "import lightning_noise"
SET_UP = r"""
import sys
import warnings

from lightning_noise import Decision, GradientNoiseScale
from testing import toys

warnings.simplefilter("ignore")  # advice of Lightning's

def doubled(estimate, global_size):
    return Decision(round(2 * global_size), "grow: always\nin two lines")

callback = GradientNoiseScale(adaptive_batch_size=doubled)
trainer = toys.trainer(callback, accumulate=1, epochs=2, enable_progress_bar=True)
print(sys.executable, lightning_noise.__file__, type(trainer.progress_bar_callback).__name__)
"""
FIT = "trainer.fit(toys.Regression(), toys.data(examples=32, local_size=4))"
PRINTED = [  # how lines begin
    "GradientNoiseScale: global size 4 → 8 from epoch 1 on",
    "in two lines",
    "Whether your batch size of 8 is right cannot be determined",
    "  noise scale: b_simple",
    "  probe examples:",
]


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs cells in a kernel of this interpreter that keeps its files in a folder of its own."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = tmp_path / "kernels" / "here" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def cells(*sources):
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
        place = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=180, kernel_name="here", resources=place).execute()
        return notebook.cells

    return cells


def printed(cell):
    """Lines on stdout. What rich shows is rich text, and the parts of a long line are lines."""
    lines = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            lines += output.text.splitlines()
        elif output.output_type == "display_data":
            lines += output.data["text/plain"].splitlines()
    return lines


BARS = {"RichProgressBar": [], "TQDMProgressBar": [WITHOUT_RICH]}


@pytest.mark.parametrize("bar", BARS)
def test_every_line_is_printed_once_and_the_fit_ends(execute, bar):
    *_, imported, set_up, fit = execute(*BARS[bar], IMPORT, SET_UP, FIT)
    assert imported.outputs == []  # no warning about a missing package for progress bars
    (who,), lines = printed(set_up), printed(fit)
    assert who.split() == [sys.executable, str(ROOT / "lightning_noise" / "__init__.py"), bar]
    begun = [start for line in lines for start in PRINTED if line.startswith(start)]
    assert begun == PRINTED
