"""Runs a notebook in a kernel of this interpreter and stores what its cells gave.

    python tools/notebook.py docs/digits.ipynb

Nothing is stored that differs from run to run without a reason: neither times nor the version of
the interpreter.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def run(path: Path, timeout: int = 120) -> nbformat.NotebookNode:
    """The notebook after all of its cells, run in its own folder.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    notebook = nbformat.read(path, as_version=4)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "here" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps({"argv": command, "display_name": "h", "language": "python"}))
        before = {name: os.environ.get(name) for name in ("JUPYTER_PATH", "PYTHONPATH")}
        os.environ |= {"JUPYTER_PATH": folder, "PYTHONPATH": str(ROOT)}
        try:
            client = NotebookClient(notebook, timeout=timeout, kernel_name="here")
            client.execute(cwd=str(path.parent.resolve()))
        finally:
            _restore(before)
    return notebook


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def store(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Writes the notebook without what differs from run to run."""
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    store(run(path), path)


if __name__ == "__main__":
    main()
