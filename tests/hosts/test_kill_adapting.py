"""A run with the flag that is killed and resumed ends as one that was never disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from testing.killed_fit import newest
from testing.launch import ROOT

SECONDS = 120.0  # that a run may take until its next checkpoint


def start(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "testing.killed_fit", str(folder)]
    log = folder.with_suffix(".log").open("ab")
    with log:
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )


def steps_saved(folder):
    path = newest(folder)
    return 0 if path is None else int(path.stem.split("=")[1])


def killed_at_a_random_time(folder, draws):
    """Kills a run some time after its first checkpoint; the steps that it has saved."""
    before = steps_saved(folder)
    process = start(folder)
    deadline = time.monotonic() + SECONDS
    while steps_saved(folder) == before:
        assert process.poll() is None, folder.with_suffix(".log").read_text()
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.01)
    time.sleep(draws.uniform(0.0, 0.3))
    assert process.poll() is None, "the run ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return steps_saved(folder)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    """The batch size grows inside an epoch; ``step_time`` makes decisions independent of the clock.

    Lightning writes a checkpoint to another name first, so that a kill leaves none half written.
    """
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    whole.mkdir()
    disturbed.mkdir()
    undisturbed = start(whole)
    draws = random.Random(3)
    kills = [killed_at_a_random_time(disturbed, draws) for _ in range(2)]
    assert kills == sorted(set(kills))
    assert start(disturbed).wait(SECONDS) == 0, disturbed.with_suffix(".log").read_text()
    assert undisturbed.wait(SECONDS) == 0, whole.with_suffix(".log").read_text()
    history, weights = torch.load(Path(whole, "end.pt"), weights_only=False)
    again, weights_again = torch.load(Path(disturbed, "end.pt"), weights_only=False)
    assert again == history and history[-1][1] > history[0][1]
    assert torch.equal(weights, weights_again)
