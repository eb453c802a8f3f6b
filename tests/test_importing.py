"""What an import of the package brings with it, and names of strategies in any order of imports."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest

import lightning_noise
from lightning_noise.when_imported import when_imported
from testing.launch import ROOT

HEAVY = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "matplotlib", "optuna", "numpy")
NAMES = ("ddp_noise", "ddp_noise_find_unused_parameters_true", "fsdp_noise", "model_parallel_noise")


def python(code, *arguments):
    """What a program prints as JSON, in a process of its own."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


LOADED = f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import lightning_noise; dir(lightning_noise)",
        "from lightning_noise import Moments, estimate_noise_scale, tradeoff",
        "from lightning_noise import CriticalBatchSize, ExchangeRate, LeastTime, AdaptiveBatchSize",
    ],
)
def test_what_needs_no_torch_imports_none(statement):
    assert python(f"import json, sys; {statement}; {LOADED}") == []


@pytest.mark.slow
def test_a_monitor_needs_torch_and_no_lightning():
    loaded = python(f"import json, sys; from lightning_noise import Monitor; {LOADED}")
    assert loaded == ["torch", "numpy"]  # which torch imports


def test_all_names_are_listed_and_found():
    assert set(lightning_noise.__all__) <= set(dir(lightning_noise))
    found = {}
    exec("from lightning_noise import *", found)
    assert set(lightning_noise.__all__) <= set(found)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lightning_noise' has no attribute 'NoiseScale'"):
        lightning_noise.NoiseScale  # noqa: B018


# ---- names of strategies -----------------------------------------------------------------------

ORDERS = {
    "this package first": "import lightning_noise; import lightning as L",
    "Lightning first": "import lightning as L; import lightning_noise",
}
STRATEGIES = f"""
import json, sys
light = "torch" in sys.modules, "lightning_noise.hosts.lightning.strategies" in sys.modules
own = [type(L.pytorch.strategies.StrategyRegistry.get(name)).__name__ for name in {NAMES}]
import pytorch_lightning as pl
twin = [type(pl.strategies.StrategyRegistry.get(name)).__name__ for name in {NAMES}]
trainer = L.Trainer(strategy="ddp_noise", accelerator="cpu", devices=1, logger=False)
strategy = type(trainer.strategy).__name__
watched = [str(finder) for finder in sys.meta_path if "lightning_noise" in type(finder).__module__]
print(json.dumps([own, twin, strategy, light[1], watched]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_strategies_are_known_by_name(order):
    """The strategies are imported when they are asked for, and nothing watches imports then."""
    own, twin, strategy, imported, watched = python(ORDERS[order] + STRATEGIES)
    kinds = ["DDP", "DDP", "FSDP", "ModelParallel"]
    assert own == [f"Noise{kind}Strategy" for kind in kinds]
    assert twin == [f"TwinNoise{kind}Strategy" for kind in kinds]
    assert strategy == "NoiseDDPStrategy"
    assert not imported and watched == []


@pytest.mark.slow
def test_strategies_are_known_to_the_twin_package_alone():
    code = "import lightning_noise, pytorch_lightning as pl, json; "
    code += 'found = pl.Trainer(strategy="ddp_noise", accelerator="cpu", devices=1, logger=False); '
    code += "print(json.dumps(type(found.strategy).__name__))"
    assert python(code) == "TwinNoiseDDPStrategy"


# ---- waiting for an import ---------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that fails while its folder holds a file "broken"."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    folder = tmp_path / "awaited"
    folder.mkdir()
    check = "import pathlib\nif pathlib.Path(__file__).with_name('broken').exists(): 1 / 0\n"
    (folder / "__init__.py").write_text(f"{check}whole = True\n")
    yield folder
    sys.modules.pop("awaited", None)


def test_waits_until_the_package_is_whole(package):
    seen, finders = [], list(sys.meta_path)
    when_imported("awaited", lambda: seen.append(sys.modules["awaited"].whole))
    assert importlib.util.find_spec("awaited") is not None and seen == []  # asking is no import
    module = importlib.import_module("awaited")
    assert seen == [True] and sys.meta_path == finders
    assert "exec_module" not in vars(module.__loader__)
    importlib.reload(module)
    assert seen == [True]


def test_does_it_at_once_for_a_package_that_is_loaded(package):
    importlib.import_module("awaited")
    seen, finders = [], list(sys.meta_path)
    when_imported("awaited", lambda: seen.append(True))
    assert seen == [True] and sys.meta_path == finders


def test_waits_for_the_import_that_succeeds(package):
    seen = []
    when_imported("awaited", lambda: seen.append(True))
    (package / "broken").touch()
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("awaited")
    assert seen == []
    (package / "broken").unlink()
    importlib.import_module("awaited")
    assert seen == [True]


def test_a_package_that_is_not_installed_is_not_found(package):
    when_imported("never_installed", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'never_installed'"):
        importlib.import_module("never_installed")
