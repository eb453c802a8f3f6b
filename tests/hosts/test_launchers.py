"""Launchers that start processes from the running one: every argument pickles, and what comes back
to the user.
"""

import functools
import json
import pickle
import subprocess
import sys

import pytest

from lightning_noise import (
    AdaptiveBatchSize,
    Examples,
    ExchangeRate,
    GradientNoiseScale,
    MicroBatches,
    NoiseDDPStrategy,
    Ranks,
)
from lightning_noise.hosts.lightning.strategies import TwinNoiseDDPStrategy
from testing.counts import count_multiple, count_pairs
from testing.launch import ROOT
from testing.toys import Regression, data, fit

ARGUMENTS = {
    "name": {"probe": "micro_batches"},
    "examples": {"probe": Examples(exact=True, min_coverage=0.5)},
    "micro-batches": {"probe": MicroBatches()},
    "ranks": {"probe": Ranks()},
    "geometries": {"geometry": ("euclidean",)},
    "numbers": {"every_n_steps": 3, "decay": 0.9, "per_layer": 2, "prog_bar": True},
    "adaptive": {"adaptive_batch_size": AdaptiveBatchSize(ExchangeRate(64.0), max_local_size=8)},
    "dotted path": {"batch_size_fn": "testing.counts.count_pairs"},
    "function": {"batch_size_fn": count_pairs},
    "partial": {"batch_size_fn": functools.partial(count_multiple, per_example=2)},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_kind_of_argument_pickles_and_measures_the_same(name):
    callback = GradientNoiseScale(**ARGUMENTS[name])
    twin = pickle.loads(pickle.dumps(callback))
    assert {
        k: v for k, v in vars(twin.settings).items() if k not in ("probe", "batch_size_fn")
    } == {k: v for k, v in vars(callback.settings).items() if k not in ("probe", "batch_size_fn")}
    if name != "ranks":  # needs a strategy of its own
        for each in (callback, twin):
            fit(Regression(), data(), each)
        assert twin.estimate() == callback.estimate() and twin.estimate().noise > 0
        assert pickle.loads(pickle.dumps(twin)).state_dict() == callback.state_dict()


@pytest.mark.parametrize("kind", [NoiseDDPStrategy, TwinNoiseDDPStrategy])
def test_strategies_pickle(kind):
    strategy = pickle.loads(pickle.dumps(kind(static_graph=True)))
    assert type(strategy) is kind and strategy._ddp_kwargs == {"static_graph": True}


STARTED = """
import functools, json, warnings
warnings.filterwarnings("ignore")
import lightning as L, pytorch_lightning as pl, torch
from lightning_noise import GradientNoiseScale, MicroBatches
from testing.counts import count_multiple
from testing.toys import Regression, data, trainer
from testing.worlds.twin_worlds import TwinRegression

def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.0)

def go(strategy, package, module, **noise):
    callback = GradientNoiseScale(**noise)
    kind = package.pytorch.callbacks if package is L else pl.callbacks
    checkpoint = kind.ModelCheckpoint()
    arguments = {"package": package, "strategy": strategy, "devices": 2}
    run = trainer(callback, checkpoint, enable_checkpointing=True, **arguments)
    run.fit(module, data(examples=128))
    kept = torch.load(checkpoint.best_model_path)["callbacks"]["GradientNoiseScale"]
    return {
        "logged": {n: float(v) for n, v in run.callback_metrics.items() if "noise" in n},
        "here": callback.estimate(),
        "steps in the checkpoint": kept["session"]["averages"][0]["average"][0]["steps"],
    }

if __name__ == "__main__":
    double = {"batch_size_fn": functools.partial(count_multiple, per_example=2)}
    results = {
        "ddp_noise_spawn": go(
            "ddp_noise_spawn", L, Regression(sgd), probe=MicroBatches(), **double
        ),
        "ddp_fork": go("ddp_fork", L, Regression(sgd)),
        "ddp_noise_notebook": go("ddp_noise_notebook", L, Regression(sgd)),
        "twin, ddp_noise_fork": go("ddp_noise_fork", pl, TwinRegression(), **double),
    }
    print("RESULTS", json.dumps(results))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launchers")
    (folder / "started.py").write_text(STARTED)
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    command = ["timeout", "-k", "5", "240", sys.executable, str(folder / "started.py")]
    run = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("RESULTS ")]
    return json.loads(line.removeprefix("RESULTS ")), run.stdout


@pytest.mark.slow
def test_the_numbers_come_back_and_the_estimate_does_not(started):
    """``callback_metrics``, the verdict and the checkpoint; the callback object itself was copied,
    as Lightning copies all.
    """
    results, out = started
    assert out.count("noise scale: b_simple") == len(results)
    for name, result in results.items():
        assert result["here"] is None, name
        assert result["steps in the checkpoint"] == 8, name
        assert {"noise_scale/trace", "noise_scale/grad_sq", "noise_scale/b_simple_low"} <= result[
            "logged"
        ].keys(), name


@pytest.mark.slow
def test_every_launcher_measures_the_same(started):
    """On frozen weights and the same shards; counted double, the trace is double."""
    logged = {name: result["logged"] for name, result in started[0].items()}
    for one, other, factor in (
        ("ddp_noise_spawn", "ddp_fork", 2),
        ("twin, ddp_noise_fork", "ddp_noise_notebook", 2),
    ):
        assert logged[one]["noise_scale/trace"] == pytest.approx(
            factor * logged[other]["noise_scale/trace"], rel=1e-6
        )
        assert logged[one]["noise_scale/grad_sq"] == pytest.approx(
            logged[other]["noise_scale/grad_sq"], rel=1e-4
        )
