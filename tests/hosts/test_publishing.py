"""What reaches the loggers, callback_metrics, the progress bar and the terminal."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_noise import GradientNoiseScale, Key, tradeoff
from testing.event_files import scalars
from testing.models import Lost
from testing.toys import Regression, data, fit

RESOLVED = {
    "b_simple",
    "b_simple_low",
    "b_simple_high",
    "grad_sq",
    "trace",
    "global_size",
    "steps_factor",
    "examples_factor",
    "learning_rate",
    "temperature",
}


def steep():
    """Targets far from the start, so that the gradient is soon resolved."""
    loader = data(examples=256)
    loader.dataset.tensors[1].add_(10.0)
    return loader


def test_tensorboard_gets_every_key_on_the_axis_of_the_loss(tmp_path):
    callback, logger = GradientNoiseScale(per_layer=True), TensorBoardLogger(tmp_path)
    module = Regression(lambda p: torch.optim.SGD(p, lr=0.0001))
    run = fit(module, steep(), callback, logger=logger, epochs=4, log_every_n_steps=8)
    found = scalars(logger.log_dir)
    assert {tag for tag in found if tag.startswith("noise_scale/")} >= {
        f"noise_scale/{name}" for name in RESOLVED
    }
    assert any(tag.startswith("noise_scale/layer/net.") for tag in found)
    at = dict(found["noise_scale/trace"])
    assert list(at) == [step for step, _ in found["train_loss"]]
    e, last = callback.estimate(), {tag: values[-1][1] for tag, values in found.items()}
    assert last["noise_scale/b_simple"] == pytest.approx(e.noise_scale, rel=1e-6)
    assert last["noise_scale/b_simple_low"] == pytest.approx(e.low, rel=1e-6)
    assert last["noise_scale/steps_factor"] == pytest.approx(
        tradeoff.steps_factor(8, e.noise_scale), rel=1e-6
    )
    assert last["noise_scale/temperature"] == pytest.approx(0.0001 / 8)
    assert float(run.callback_metrics["noise_scale/b_simple"]) == pytest.approx(e.noise_scale)


def test_a_run_shorter_than_the_log_interval_shows_its_number(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(Regression(), data(examples=160), GradientNoiseScale(), logger=logger, log_every_n_steps=50)
    assert [step for step, _ in scalars(logger.log_dir)["noise_scale/trace"]] == [19]


def test_csv_and_no_logger_and_a_second_epoch(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(Regression(), data(), GradientNoiseScale(), logger=logger, epochs=2, log_every_n_steps=4)
    logger.save()
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows if row["noise_scale/trace"]] == [3, 7, 11, 15]
    run = fit(Regression(), data(), GradientNoiseScale(), epochs=2)
    assert float(run.callback_metrics["noise_scale/trace"]) > 0


def test_the_end_of_an_epoch_is_logged_whoever_has_read_the_rows(tmp_path):
    """Reading every 50 steps drains the table just before the epoch ends."""
    logger = TensorBoardLogger(tmp_path)
    run = fit(
        Regression(),
        data(examples=400),
        GradientNoiseScale(),
        logger=logger,
        epochs=3,
        log_every_n_steps=1000,
    )
    assert [step for step, _ in scalars(logger.log_dir)["noise_scale/trace"]] == [49, 99, 149]
    assert run.global_step == 150


def test_what_cannot_be_said_has_no_key():
    """|G|² is soon lost, and b_simple disappears from all places."""

    seen = []

    class Look(GradientNoiseScale):
        def on_train_batch_end(self, trainer, module, *args):
            super().on_train_batch_end(trainer, module, *args)
            shown = {
                k.removeprefix("noise_scale/")
                for k in trainer.callback_metrics
                if k.startswith("noise_scale")
            }
            seen.append((shown, "noise_scale/b_simple" in trainer.progress_bar_metrics))

    callback = Look(decay=0.9, prog_bar=True)
    fit(Lost(), data(examples=128), callback, epochs=8, log_every_n_steps=1)
    assert any(shown >= RESOLVED and bar for shown, bar in seen)
    unresolved = [
        (shown, bar) for shown, bar in seen if "trace" in shown and "b_simple" not in shown
    ]
    assert unresolved and all(
        not bar and not shown & {"b_simple_high", "steps_factor"} for shown, bar in unresolved
    )
    assert "b_simple_low" in seen[-1][0] and "b_simple" not in seen[-1][0]


class Broken(Regression):
    """Its loss is not finite in any step."""

    def loss(self, batch):
        return super().loss(batch) * float("nan")


def test_a_run_without_a_usable_step_has_no_key_and_no_number(capsys):
    geometry = ("euclidean", "hessian", "optimizer")
    callback = GradientNoiseScale(geometry=geometry, every_n_steps=1, per_layer=True)
    run = fit(Broken(), data(), callback, accumulate=4, log_every_n_steps=1)
    out = capsys.readouterr().out
    assert callback.estimate().steps == callback.estimate(Key("hessian")).steps == 0
    assert not [name for name in run.callback_metrics if name.startswith("noise_scale")]
    assert "noise scale: b_simple not measured yet" in out and "nan" not in out


def test_reads_every_fifty_steps_where_nothing_is_logged():
    waiting = []

    class Look(GradientNoiseScale):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            waiting.append(self.session.pending)

    fit(Regression(), data(examples=1000), Look(), log_every_n_steps=0)
    assert max(waiting) == 49 and waiting[-1] == 125 - 100


def test_verdict_of_a_cosine_schedule_on_a_real_run(capsys):
    def cosine(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 160)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    callback = GradientNoiseScale()
    fit(Regression(cosine), data(shuffle=True), callback, accumulate=1, epochs=10)
    way = callback.trajectories()[Key()]
    assert way.has_decayed and way.peak_rate == 0.1
    # half a cosine is at a third of its peak after acos(-1/3)/pi = 0.608 of it, rounded to bins of
    # 15 %
    assert 160 * 0.608 - 1 <= way.high.end[0] <= 160 * 0.65
    assert f"that is until measured step {way.high.end[0]}" in capsys.readouterr().out


def test_a_short_last_batch_is_not_the_batch_size(capsys):
    """The rate falls after each epoch of nine batches of 8 and one of 5."""

    def falling(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)]

    loader = data(examples=77, local_size=8, shuffle=True)
    fit(Regression(falling), loader, GradientNoiseScale(), accumulate=1, epochs=4)
    assert "batch size 8 while the learning rate was at least a third" in capsys.readouterr().out


def test_fit_prints_the_verdict(capsys):
    fit(Regression(), data(), GradientNoiseScale(), epochs=8)
    out = capsys.readouterr().out
    assert out.startswith("Your batch size of 8 is ")
    assert "\n  noise scale: b_simple " in out
    assert "64 steps measured" in out
