"""LightningCLI: the callback from YAML and from the command line, in a process of its own."""

import subprocess
import sys

import pytest

from tests.world import ROOT

PROGRAM = """
import warnings
warnings.filterwarnings("ignore")
import lightning as L
from lightning.pytorch.cli import LightningCLI
from tests.plugin.toys import Regression, data

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
        batch_size_fn: tests.plugin.test_measuring.count_pairs
        per_layer: 1
        probe:
          class_path: lightning_noise.Examples
          init_args:
            min_coverage: 0.5
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "config.yaml").write_text(YAML)

    def run(*arguments):
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "COLUMNS": "100"}
        command = ["timeout", "-k", "5", "120", sys.executable, str(folder / "program.py"), *arguments]
        return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)

    return run


def test_yaml(program):
    done = program("fit", "--config", "config.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "probe examples: single examples are the groups, as asked for; 4 steps measured" in done.stdout
    assert "(units of count_pairs)" in done.stdout


def test_help_and_bad_value(program):
    done = program("fit", "--trainer.callbacks.help", "lightning_noise.GradientNoiseScale")
    assert "where the groups of gradients come from" in done.stdout and "every_n_steps" in done.stdout
    arguments = ["--trainer.callbacks+=lightning_noise.GradientNoiseScale", "--trainer.callbacks.decay=1.5"]
    assert "decay must lie strictly between 0 and 1" in program("fit", *arguments).stderr
