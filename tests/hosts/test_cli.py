"""LightningCLI: the callback from YAML and from the command line, in a process of its own."""

import inspect
import re
import subprocess
import sys

import pytest

from lightning_noise import GradientNoiseScale
from testing.launch import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import warnings
warnings.filterwarnings("ignore")
import lightning as L
from lightning.pytorch.cli import LightningCLI
from testing.toys import Regression, data

class Module(Regression):
    def __init__(self, width: int = 6):
        super().__init__(width=width)

class Data(L.LightningDataModule):
    def __init__(self, examples: int = 64):
        super().__init__()
        self.examples = examples

    def train_dataloader(self):
        return data(self.examples)

if __name__ == "__main__":
    LightningCLI(Module, Data, save_config_callback=None)
"""
YAML = """
trainer:
  max_epochs: 1
  logger: false
  accelerator: cpu
  enable_checkpointing: false
  enable_progress_bar: false
  strategy: ddp_noise
  accumulate_grad_batches: 2
  callbacks:
    - class_path: lightning_noise.GradientNoiseScale
      init_args:
        every_n_steps: 2
        batch_size_fn: testing.counts.count_pairs
        per_layer: 1
        probe:
          class_path: lightning_noise.Examples
          init_args:
            min_coverage: 0.5
"""


TWIN = (
    PROGRAM.replace("import lightning as L", "import pytorch_lightning as L")
    .replace("lightning.pytorch.cli", "pytorch_lightning.cli")
    .replace(
        "from testing.toys import Regression",
        "from testing.worlds.twin_worlds import TwinRegression as Regression",
    )
    .replace("Regression, data", "Regression\nfrom testing.toys import data")
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "twin.py").write_text(TWIN)
    (folder / "config.yaml").write_text(YAML)

    def run(*arguments, name="program.py"):
        environment = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
            "COLUMNS": "100",
        }
        command = ["timeout", "-k", "5", "120", sys.executable, str(folder / name), *arguments]
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("name", ["program.py", "twin.py"])
def test_yaml(program, name):
    done = program("fit", "--config", "config.yaml", name=name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "probe examples: single examples are the groups, as requested; 4 steps measured"
        in done.stdout
    )
    assert "(pairs)" in done.stdout


def test_everything_on_the_command_line(program):
    """Over the file, whose callback it replaces: strategy, callback, probe and counting function by
    name.
    """
    done = program(
        "fit",
        "--config=config.yaml",
        "--trainer.strategy=ddp_noise_find_unused_parameters_true",
        "--trainer.callbacks=lightning_noise.GradientNoiseScale",
        "--trainer.callbacks.probe=lightning_noise.MicroBatches",
        "--trainer.callbacks.batch_size_fn=testing.counts.count_pairs",
        "--trainer.callbacks.every_n_steps=1",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "probe micro_batches: 2 micro-batches per step on 1 rank are 2 groups; 8 steps measured"
        in done.stdout
    )
    assert "(pairs)" in done.stdout


def test_help_reads_well(program):
    """Every argument with its sentence, as a person reads it: no markup of the documentation."""
    help_text = program(
        "fit", "--trainer.callbacks.help", "lightning_noise.GradientNoiseScale"
    ).stdout
    words = " ".join(help_text.split())
    assert "`" not in help_text and ":class:" not in help_text
    for name in inspect.signature(GradientNoiseScale).parameters:
        described = re.search(
            rf"--trainer.callbacks.{name} (\{{true,false\}}|[A-Z_]+) (.{{20}})", words
        )
        assert described and not described[2].startswith("(type"), name
    assert "where the groups of gradients come from" in words


def test_bad_value(program):
    arguments = [
        "--trainer.callbacks+=lightning_noise.GradientNoiseScale",
        "--trainer.callbacks.decay=1.5",
    ]
    assert "decay must lie strictly between 0 and 1" in program("fit", *arguments).stderr
