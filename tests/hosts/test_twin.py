"""``pytorch_lightning``: the same by the same import, and one clear message where the two packages
are mixed.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import pytorch_lightning as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy, StrategyRegistry
from pytorch_lightning.utilities.exceptions import (
    MisconfigurationException as TwinMisconfigurationException,
)

from lightning_noise import GradientNoiseScale, Key, NoiseDDPStrategy, NoiseStrategyMixin
from lightning_noise.hosts.lightning.strategies import TwinNoiseDDPStrategy
from lightning_noise.hosts.lightning.two_packages import either
from testing.event_files import events, scalars
from testing.gans import Gan, gan_data
from testing.launch import ROOT, launch
from testing.reference import probes
from testing.toys import Regression, data, fit, trainer
from testing.worlds.twin_worlds import TwinGan, TwinRegression


def frozen():
    return Regression(lambda p: torch.optim.SGD(p, lr=0.0))


def test_the_same_numbers_in_the_same_places(tmp_path):
    """Measuring, loggers and the accumulation scheduler of the twin package give what Lightning's
    give.
    """
    own, twin = GradientNoiseScale(), GradientNoiseScale()
    fit(frozen(), data(), own, epochs=2, accumulate=2)
    board, table = TensorBoardLogger(tmp_path), CSVLogger(tmp_path)
    run = fit(
        TwinRegression(),
        data(),
        twin,
        GradientAccumulationScheduler({0: 2}),
        package=pl,
        epochs=2,
        accumulate=1,
        logger=[board, table],
        log_every_n_steps=4,
    )
    assert twin.estimate() == own.estimate() and probes(twin)[0] == "micro_batches"
    assert float(run.callback_metrics["noise_scale/trace"]) == pytest.approx(own.estimate().noise)
    found = scalars(board.log_dir)
    assert found["noise_scale/trace"][-1] == (15, pytest.approx(own.estimate().noise))
    table.save()
    rows = list(csv.DictReader((Path(table.log_dir) / "metrics.csv").read_text().splitlines()))
    written = [
        (int(row["step"]), float(row["noise_scale/trace"]))
        for row in rows
        if row["noise_scale/trace"]
    ]
    assert written == [(step, pytest.approx(value)) for step, value in found["noise_scale/trace"]]
    beside = events(Path(board.log_dir) / "batch_size")
    assert "custom_scalars__config__" in beside.Tags()["tensors"]
    assert any(tag.startswith("noise_scale_band/") for tag in found)
    assert not any("noise_scale_band" in name for name in rows[0])


def test_a_callback_alone_and_single_examples():
    """Outside of a list it must pass the Trainer's ``isinstance``; the twin's command line asks the
    same.
    """
    callback = GradientNoiseScale()
    assert isinstance(callback, pl.Callback) and isinstance(callback, L.Callback)
    run = trainer(package=pl, accumulate=1, callbacks=callback)
    run.fit(TwinRegression(), data())
    alone = GradientNoiseScale()
    fit(frozen(), data(), alone, accumulate=1)
    assert callback.estimate() == alone.estimate() and probes(callback)[0] == "examples"


def test_a_checkpoint_of_one_package_is_taken_up_in_the_other(tmp_path):
    whole, half, rest = GradientNoiseScale(), GradientNoiseScale(), GradientNoiseScale()
    fit(frozen(), data(), whole, epochs=2)
    run = fit(TwinRegression(), data(), half, epochs=1, package=pl)
    run.save_checkpoint(tmp_path / "half.ckpt")
    fit(frozen(), data(), rest, epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert rest.estimate() == whole.estimate()


def test_several_optimizers_in_a_module_that_steps_by_itself():
    own, twin = GradientNoiseScale(), GradientNoiseScale()
    fit(Gan(), gan_data(), own, accumulate=1)
    run = fit(TwinGan(), gan_data(), twin, accumulate=1, package=pl)
    for name in ("Adam", "Adam-1"):
        found = twin.estimate(Key(optimizer=name))
        assert found == own.estimate(Key(optimizer=name)) and found.steps == 6
        assert float(run.callback_metrics[f"noise_scale/{name}/trace"]) == pytest.approx(
            found.noise
        )


def test_registered_once_under_all_of_lightning_s_variants():
    TwinNoiseDDPStrategy.register_strategies(StrategyRegistry)  # again: nothing happens
    names = StrategyRegistry.available_strategies()
    ours = {name for name in names if name.startswith("ddp_noise")}
    assert {name.replace("ddp_noise", "ddp") for name in ours} == {
        n for n in names if n.startswith("ddp")
    } - ours
    assert all(StrategyRegistry[name]["strategy"] is TwinNoiseDDPStrategy for name in ours)


@pytest.mark.parametrize("kind", [MisconfigurationException, TwinMisconfigurationException])
def test_refusals_are_caught_under_either_name(kind):
    with pytest.raises(kind, match="LBFGS evaluates the loss several times"):
        module = TwinRegression()
        module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())
        fit(module, data(), GradientNoiseScale(), package=pl)


def test_strategies_that_shard_are_no_kind_of_ddp():
    assert not issubclass(FSDPStrategy, either(L.pytorch.strategies.DDPStrategy))
    assert issubclass(TwinNoiseDDPStrategy, either(L.pytorch.strategies.DDPStrategy))


class OverTwin(NoiseStrategyMixin, pl.strategies.DDPStrategy):
    pass


@pytest.mark.parametrize(
    ("package", "strategy", "message"),
    [
        (
            pl,
            NoiseDDPStrategy(),
            "NoiseDDPStrategy, for a Trainer of lightning.pytorch; with pytorch_lightning write "
            "strategy='ddp",
        ),
        (
            L,
            OverTwin(),
            "OverTwin, for a Trainer of pytorch_lightning; with lightning.pytorch write "
            "strategy='ddp_noise' or derive",
        ),
    ],
)
def test_a_strategy_of_the_other_package(package, strategy, message):
    with pytest.raises(ValueError, match=message):
        trainer(GradientNoiseScale(), package=package, strategy=strategy)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return data()


class TwinData(pl.LightningDataModule):
    train_dataloader = Data.train_dataloader


@pytest.mark.parametrize(
    ("package", "module", "source", "message"),
    [
        (
            pl,
            TwinRegression,
            Data,
            "Data is a LightningDataModule of lightning.pytorch, but the Trainer is of "
            "pytorch_lightning",
        ),
        (
            L,
            frozen,
            TwinData,
            "TwinData is a LightningDataModule of pytorch_lightning, but the Trainer is of "
            "lightning.pytorch",
        ),
    ],
)
def test_a_data_module_of_the_other_package(package, module, source, message):
    with pytest.raises(MisconfigurationException, match=message):
        fit(module(), source(), GradientNoiseScale(), package=package)


def test_data_modules_of_the_same_package():
    for package, module, source in ((pl, TwinRegression, TwinData), (L, frozen, Data)):
        callback = GradientNoiseScale()
        fit(module(), source(), callback, package=package)
        assert callback.estimate().steps == 8


@pytest.mark.parametrize(("package", "module"), [(pl, frozen), (L, TwinRegression)])
def test_a_module_of_the_other_package(package, module):
    """Lightning refuses it itself, before any callback is asked."""
    with pytest.raises(TypeError, match="`model` must be a `LightningModule`"):
        fit(module(), data(), GradientNoiseScale(), package=package)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launch("testing.worlds.twin_worlds:everything", 2, tmp_path_factory.mktemp("twin"))


@pytest.mark.slow
def test_ddp_under_the_twin(two):
    for name, same in {
        "ddp_noise": "ddp_noise",
        "ddp_noise, unused": "ddp_noise",
        "own strategy": "ddp_noise",
        "ddp": "ddp",
    }.items():
        for rank in two:
            found, reference = rank["estimates"][name], rank["reference"][same]
            assert found["steps"] == 1
            assert (found["trace"], found["grad_sq"]) == pytest.approx(
                (reference["trace"], reference["grad_sq"]), rel=1e-12
            ), name
    out = {name: two[0]["estimates"][name]["out"] for name in two[0]["estimates"]}
    assert all("probe ranks: 2 ranks" in out[name] for name in out if name != "ddp")
    assert "probe micro_batches" in out["ddp"] and two[1]["estimates"]["ddp"]["out"] == ""
    assert two[0]["hook calls"] >= 1


@pytest.mark.slow
def test_weights_and_random_state_are_bit_identical(two):
    for rank in two:
        for name, tensors in rank["weights"].items():
            assert all(
                torch.equal(a, b) for a, b in zip(rank["weights"]["ddp"], tensors, strict=True)
            ), name


@pytest.mark.slow
def test_tensorboard_under_ddp_of_the_twin(two):
    found = scalars(two[0]["folder"])
    assert found["noise_scale/trace"][-1][1] == pytest.approx(two[0]["logged"]["noise_scale/trace"])
    beside = events(Path(two[0]["folder"]) / "batch_size")
    assert "custom_scalars__config__" in beside.Tags()["tensors"]
    assert two[0]["logged"]["noise_scale/trace"] == two[1]["logged"]["noise_scale/trace"]


@pytest.mark.slow
def test_refusals_are_alike_on_all_ranks_of_the_twin(two):
    assert "static_graph=True) with accumulate_grad_batches=2" in two[0]["static graph"]
    assert two[0]["static graph"] == two[1]["static graph"]


WITHOUT = """
import sys, warnings
warnings.filterwarnings("ignore")
sys.modules["pytorch_lightning"] = None  # as where it is not installed
from lightning_noise import GradientNoiseScale
from testing.toys import Regression, data, fit
callback = GradientNoiseScale()
fit(Regression(), data(), callback, strategy="ddp_noise")
print(callback.estimate().steps, isinstance(callback, __import__("lightning").Callback))
"""


@pytest.mark.slow
def test_without_the_twin():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["timeout", "-k", "5", "100", sys.executable, "-c", WITHOUT]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "8 True"
