"""Runs the tests with the oldest versions of all dependencies, as pyproject.toml states them.

    python tools/floors.py --python python3.10 --folder /tmp/floors

Makes a virtual environment in the folder (again, with --again), installs every lower bound of the
package and of the extras that the tests need, and runs the tests that are not marked slow.
docs/install.md lists what has been tried.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
EXTRAS = ("plots", "examples", "study", "postgres", "cli")
BOUND = re.compile(r"(?P<name>[\w-]+)(?P<extra>\[\w+\])?>=(?P<version>[\w.]+)")
# What runs the tests, in any version; and bounds on what old versions do not state themselves.
TOOLS = ("hatchling", "hypothesis", "ipykernel", "mlflow-skinny", "nbclient", "pytest", "rich")
BESIDE = ("pyparsing<3.3", "setuptools<81")  # for matplotlib 3.9, and for tensorboard 2.16
TESTS = ("core", "adapt", "say", "measure", "probes", "hosts", "report", "study")


def floors(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """The lower bounds as exact versions, in the order of the file."""
    project = tomllib.loads(pyproject.read_text())["project"]
    stated = list(project["dependencies"])
    for extra in EXTRAS:
        stated += project["optional-dependencies"][extra]
    found = {}
    for requirement in stated:
        match = BOUND.fullmatch(requirement)
        if match is not None:
            name = match["name"] + (match["extra"] or "")
            found[name] = f"{name}=={match['version']}"
    return list(found.values())


def prepare(python: str, folder: Path, again: bool) -> Path:
    """The interpreter of an environment with the lower bounds."""
    interpreter = folder / Path(python).name / "bin" / "python"
    if again or not interpreter.exists():
        subprocess.run([python, "-m", "venv", "--clear", interpreter.parents[1]], check=True)
    lightning = next(one for one in floors() if one.startswith("lightning=="))
    twin = lightning.replace("lightning", "pytorch-lightning")
    pip = [interpreter, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *floors(), twin, *BESIDE, *TOOLS], check=True)
    return interpreter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="of the environment")
    parser.add_argument("--folder", type=Path, default=ROOT / ".floors")
    parser.add_argument("--again", action="store_true", help="make the environment anew")
    parser.add_argument("tests", nargs="*", default=[f"tests/{name}" for name in TESTS])
    args = parser.parse_args()
    interpreter = prepare(args.python, args.folder, args.again)
    print(*floors(), sep="\n")
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [interpreter, "-m", "pytest", "-q", "-m", "not slow", *args.tests]
    return subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
