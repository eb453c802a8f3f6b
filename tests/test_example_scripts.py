"""The example programs that adapt the batch size, run short in this process."""

import os
import runpy
import subprocess
import sys

import pytest

from testing.launch import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def program(name, *arguments):
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # seed_everything sets them for good
            monkeypatch.setenv(variable, "1")
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return program


GREW = "GradientNoiseScale: global size 16 → "


def test_adaptive(run):
    short = ("--quiet", "--epochs", "4", "--policy", "track")
    out = run("adaptive.py", *short, "--schedule", "one-cycle", "--compare")
    assert GREW in out and "grow: b_simple is" in out
    adaptive, fixed = (
        int(line.split()[1])
        for line in out.splitlines()
        if line.startswith(("adaptive: ", "fixed: "))
    )
    assert adaptive < fixed == 4 * 90


def test_advice_changes_nothing(run):
    out = run(
        "adaptive.py",
        "--quiet",
        "--epochs",
        "3",
        "--policy",
        "exchange",
        "--advise-only",
        "--schedule",
        "cosine",
    )
    assert "advice: global size 16 → 32" in out and "adaptive: 270 steps" in out


def test_the_flag_of_the_other_examples(run):
    start = ("--batch-size", "4", "--learning-rate", "0.0125")
    out = run("digits.py", "--quiet", "--epochs", "2", "--adaptive", *start)
    assert "GradientNoiseScale: global size 4 → 8" in out and "share of step time 0.5" in out
    small = (
        "--width 32 --layers 1 --context 32 --corpus-megabytes 0.1 --batch-size 4 --steps 240 "
        "--learning-rate 0.01"
    )
    assert "within this epoch" in run("char_lm.py", "--quiet", "--adaptive", *small.split())


@pytest.mark.filterwarnings("ignore")  # LightningCLI calls what jsonargparse has deprecated
def test_yaml(run):
    short = [
        "--trainer.max_epochs=3",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false",
    ]
    out = run("cli.py", "fit", "--config", str(EXAMPLES / "adaptive.yaml"), *short)
    assert "GradientNoiseScale: global size 4 → 8" in out
    assert "adaptive batch size: 4 (epoch" in out and "median step times: 4: " in out


def test_study_of_digits(run, tmp_path):
    out = run("study_digits.py", "--quick", "--figures", "--out", str(tmp_path / "out"))
    assert "goal SGD, early\n  b_crit " in out and "b_simple of the tuned runs" in out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "study_digits.journal",
        "study_digits.csv",
        "study_digits.txt",
        "steps_SGD_early.png",
        "frontier.png",
    } <= written
    assert (
        len((tmp_path / "out" / "study_digits.csv").read_text().splitlines()) > 4 * 2 * 2
    )  # sizes, trials, goals


def test_study_of_a_cnn(run, tmp_path):
    out = run("study_cnn.py", "--quick", "--out", str(tmp_path / "out"))
    assert "goal val_acc >= 0.95\n" in out
    assert "goal val_acc >= 0.9\n" in out
    assert "reruns that reached the goal: {64: '1 of 1', 128: " in out


@pytest.mark.parametrize("strategy", ["fsdp_noise", "model_parallel_noise"])
def test_sharded(tmp_path, strategy):
    """Two processes, which Lightning starts itself."""
    command = [sys.executable, str(EXAMPLES / "fsdp.py"), "--strategy", strategy, "--epochs", "1"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "noise scale: b_simple" in done.stdout
    assert "probe shards: 1 micro-batch per step on 2 ranks are 2 groups" in done.stdout
