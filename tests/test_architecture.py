"""The floors, the public list and the documentation of every public name, as tests."""

import ast
import re
import sys
from pathlib import Path

import pytest

import lightning_noise

ROOT = Path(lightning_noise.__file__).parent
STDLIB = frozenset(sys.stdlib_module_names)
STARTS_PROCESSES = re.compile(r"\b(?:launch|subprocess\.run|subprocess\.Popen|NotebookClient)\(")
TEST_MODULE = re.compile(r"\b(?:from|import) tests\b|\btests(?:\.\w+)*\.test_\w+")
FLOORS = {  # floor → what it may import besides itself and the standard library
    "core": set(),
    "probes": {"torch", "lightning_noise.core"},
    "measure": {"torch", "lightning_noise.core", "lightning_noise.probes"},
    "adapt": {"lightning_noise.core"},
    "say": {"lightning_noise.core", "lightning_noise.measure"},
    "hosts": {
        "torch",
        "lightning",
        "lightning_utilities",
        "tensorboard",  # the records of a custom layout
        "pytorch_lightning",  # the twin package
        "torchmetrics",
        "tqdm",
        "lightning_noise.core",
        "lightning_noise.adapt",
        "lightning_noise.say",
        "lightning_noise.probes",
        "lightning_noise.measure",
        "lightning_noise.report",
    },
    "report": {
        "matplotlib",
        "tensorboard",  # reads event files
        "lightning_noise.core",
        "lightning_noise.say",
    },
    "study": {
        "torch",
        "lightning",
        "optuna",
        "filelock",
        "sqlalchemy",  # Optuna's own engine for databases
        "tqdm",
        "lightning_noise.core",
        "lightning_noise.adapt",  # the exponent of the learning-rate rule
        "lightning_noise.hosts",
        "lightning_noise.say",
        "lightning_noise.report",
    },
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def test_the_package_imports_neither_its_tests_nor_their_helpers():
    for path in ROOT.rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in ("testing", "tests"), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", ["tests", "testing", "benchmarks", "examples", "tools"])
def test_no_file_imports_a_test_module(folder):
    """Nor does a program or a dotted path in a string: what tests share is in ``testing``."""
    for path in (ROOT.parent / folder).rglob("*.py"):
        found = TEST_MODULE.search(path.read_text())
        assert found is None, f"{path.relative_to(ROOT.parent)} has {found[0]!r}"


def test_what_starts_processes_is_marked_slow():
    """`make check` takes long where one such test slips in."""
    for path in (ROOT.parent / "tests").rglob("test_*.py"):
        text = path.read_text()
        found = STARTS_PROCESSES.search(text)
        assert found is None or "pytest.mark.slow" in text, f"{path.name} has {found[0]!r}"


@pytest.mark.parametrize("floor", FLOORS)
def test_no_floor_imports_upward(floor):
    allowed = FLOORS[floor] | {f"lightning_noise.{floor}"}
    for path in (ROOT / floor).rglob("*.py"):
        for name in imports(path):
            inside = any(name == a or name.startswith(f"{a}.") for a in allowed)
            assert inside or name.split(".")[0] in STDLIB, (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def test_every_file_belongs_to_a_floor():
    # folders of an older commit may linger, with nothing but compiled files in them
    top = {path.name for path in ROOT.iterdir() if path.is_file() or any(path.rglob("*.py"))}
    files = {"__init__.py", "__main__.py", "py.typed", "tradeoff.py", "when_imported.py"}
    assert top == {*FLOORS, *files}


def test_public_list():
    assert sorted(lightning_noise.__all__) == [
        "AdaptiveBatchSize",
        "BatchSizePolicy",
        "BatchSizeRamp",
        "BatchSizeWarmUp",
        "ByExamples",
        "CriticalBatchSize",
        "Decision",
        "Examples",
        "ExchangeRate",
        "GradientNoiseScale",
        "Key",
        "LeastTime",
        "MicroBatches",
        "Moments",
        "Monitor",
        "NoiseDDPStrategy",
        "NoiseEstimate",
        "NoiseFSDPStrategy",
        "NoiseFSDPStrategyMixin",
        "NoiseModelParallelStrategy",
        "NoiseModelParallelStrategyMixin",
        "NoiseScaleError",
        "NoiseScaleMetric",
        "NoiseScales",
        "NoiseStrategyMixin",
        "Probe",
        "Ranks",
        "TrackNoiseScale",
        "estimate_noise_scale",
        "measure_noise_scale",
        "register_rule",
        "tradeoff",
    ]
    assert sorted(lightning_noise.tradeoff.__all__) == [
        "FrontierPoint",
        "PredictedCurve",
        "dl_opt",
        "eps_opt",
        "examples_factor",
        "exchange_rate_size",
        "frontier",
        "gain",
        "gamma",
        "predicted_curve",
        "steps_factor",
    ]


@pytest.mark.parametrize("name", [*lightning_noise.__all__, *lightning_noise.tradeoff.__all__])
def test_every_public_name_is_documented(name):
    home = ROOT.parent
    pages = [home / "README.md", *(home / "docs").glob("*.md")]
    assert any(re.search(rf"[`.\s]{name}[`(]", page.read_text()) for page in pages), name
    found = getattr(lightning_noise, name, None) or getattr(lightning_noise.tradeoff, name)
    assert found.__doc__
