"""Loggers that really write: what is read back is what ``callback_metrics`` held at that step, key
by key.
"""

import csv
import socket
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

from lightning_noise import GradientNoiseScale
from testing.event_files import scalars
from testing.models import Lost
from testing.toys import Regression, data, fit


class Watch(L.Callback):
    """What ``callback_metrics`` shows of the noise scale after each step, as the last callback."""

    def __init__(self):
        self.shown = {}

    def on_train_batch_end(self, trainer, *_):
        found = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("noise_scale/")
        }
        self.shown[trainer.global_step - 1] = found

    on_train_epoch_end = on_train_batch_end


@pytest.fixture
def offline(monkeypatch):
    """MLflow with a local folder, and no way out of this machine."""
    monkeypatch.setenv(
        "MLFLOW_ALLOW_FILE_STORE", "true"
    )  # in maintenance, and all that needs no data base
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")  # where there is no git

    def refuse(self, address):
        raise OSError(f"a logger asked for the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def of_tensorboard(logger):
    """Values by step and name."""
    found = {}
    for name, values in scalars(logger.log_dir).items():
        for step, value in values:
            found.setdefault(step, {})[name] = value
    return found


def of_csv(logger):
    logger.save()
    rows = csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines())
    return {
        int(row["step"]): {name: float(value) for name, value in row.items() if value}
        for row in rows
    }


def of_mlflow(logger):
    found = {}
    for name in logger.experiment.get_run(logger.run_id).data.metrics:
        for metric in logger.experiment.get_metric_history(logger.run_id, name):
            found.setdefault(metric.step, {})[name] = metric.value
    return found


def noise_scale(rows):
    own = {
        step: {n: v for n, v in row.items() if n.startswith("noise_scale/")}
        for step, row in rows.items()
    }
    return {step: row for step, row in own.items() if row}


def test_every_logger_holds_what_callback_metrics_held(tmp_path, offline):
    """Three at once, over a run in which b_simple is lost on the way, so that keys come and go."""
    board, table = TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "table")
    third = MLFlowLogger("noise", tracking_uri=(tmp_path / "mlflow").as_uri())
    watch = Watch()
    fit(
        Lost(),
        data(examples=128),
        GradientNoiseScale(decay=0.9, per_layer=True),
        watch,
        logger=[board, table, third],
        epochs=8,
        log_every_n_steps=3,
    )
    logged = [
        step for step in range(128) if step % 3 == 2 or step % 16 == 15
    ]  # at the interval and at the end of an epoch
    for rows in (of_tensorboard(board), of_csv(table), of_mlflow(third)):
        found = noise_scale(rows)
        assert list(found) == logged
        for step in logged:
            assert found[step] == pytest.approx(watch.shown[step], rel=1e-5)
    known = [("noise_scale/b_simple" in watch.shown[step]) for step in logged]
    assert True in known and known[-1] is False
    assert any(
        name.startswith("noise_scale/layer/") for step in logged for name in watch.shown[step]
    )
    assert not any(
        name.startswith("noise_scale_band")
        for row in [*of_csv(table).values(), *of_mlflow(third).values()]
        for name in row
    )


def test_the_third_party_logger_alone(tmp_path, offline):
    logger = MLFlowLogger("noise", tracking_uri=(tmp_path / "mlflow").as_uri())
    callback = GradientNoiseScale()
    fit(Regression(), data(), callback, logger=logger, epochs=2, log_every_n_steps=4)
    found = of_mlflow(logger)
    assert list(noise_scale(found)) == [3, 7, 11, 15]
    assert found[15]["noise_scale/trace"] == pytest.approx(callback.estimate().noise, rel=1e-12)


def test_no_logger_at_all(tmp_path, monkeypatch):
    """The numbers are the same, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with_logger, without = GradientNoiseScale(), GradientNoiseScale()
    fit(Regression(), data(), with_logger, logger=CSVLogger(tmp_path / "table"), epochs=2)
    before = sorted(tmp_path.rglob("*"))
    run = fit(Regression(), data(), without, logger=False, epochs=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert without.estimate() == with_logger.estimate() and run.loggers == []
    assert float(run.callback_metrics["noise_scale/trace"]) == pytest.approx(
        without.estimate().noise
    )
