"""What reaches the loggers, callback_metrics, the progress bar and the terminal."""

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_noise import GradientNoiseScale, Key, tradeoff
from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import estimate_from
from lightning_noise.core.moments import Moments
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.measure.skips import ONE_GROUP
from lightning_noise.say.verdict import Verdict, number
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


def findings(moments, *, global_size=32.0, data_size=None, skipped=None):
    average, trajectory = RunningAverage(0.99), Trajectory()
    for m in moments:
        average.update(m)
        trajectory.add(estimate_from(average), rate=0.1)
    return Verdict(
        estimate=estimate_from(average, data_size=data_size),
        average=average,
        trajectory=trajectory,
        probe="micro_batches",
        groups="4 micro-batches per step on 1 rank are 4 groups",
        global_size=global_size,
        learning_rate=0.1,
        data_size=data_size,
        skipped=skipped or {},
    )


def steps(trace, grad_sq, wobble, grad_wobble=0.1):
    """Moments of groups 8 and 32 whose step values alternate around (trace, grad_sq)."""
    result = []
    for i in range(40):
        x, y = trace * (1 + wobble * (-1) ** i), grad_sq * (1 + grad_wobble * (-1) ** (i // 2))
        result.append(Moments(y + x / 8, y + x / 32, 1 / 8, 1 / 32))
    return result


def test_verdict_of_a_resolved_run():
    text = str(findings(steps(96.0, 1.0, 0.1)))
    first, costs, change, probe = text.splitlines()
    assert (
        first.startswith("noise scale: b_simple 9")
        and "at the start (measured step 6)" in first
        and "at the end (examples" in first
    )
    assert (
        costs.strip() == "batch size 32 at learning rate 0.1: 4 times the minimum number of "
        "steps, 1.33 times the minimum number of examples"
    )
    assert (
        change.strip()
        == "halving it: +75 % steps, -12 % examples; doubling it: -38 % steps, +25 % examples"
    )
    assert (
        probe.strip()
        == "probe micro_batches: 4 micro-batches per step on 1 rank are 4 groups; 40 steps measured"
    )


def test_verdict_of_a_decaying_schedule_rests_on_the_high_rates():
    """B_simple is near 96 at a rate of 0.1 and near 9600 at the end, where the rate is a thousandth
    of it.
    """
    found = findings(steps(96.0, 1.0, 0.1))
    end = found.estimate._replace(noise_scale=9600.0, low=9000.0, high=10000.0, steps=80)
    way = Trajectory()
    way.add(found.estimate._replace(noise_scale=96.0, low=90.0, high=100.0), rate=0.1, size=32.0)
    way.add(end, rate=0.0001, size=32.0)
    found = found._replace(estimate=end, trajectory=way, learning_rate=0.0001)
    first, costs, *_ = str(found).splitlines()
    assert "96 on average while the learning rate was at least a third of its peak" in first
    assert "9600 [9000, 10000] at the end, at a learning rate of 0.0001, which makes" in first
    assert costs.strip() == (
        "batch size 32 while the learning rate was at least a third of its peak, that is "
        "until measured step 40, where the "
        "noise scale was 96 [90, 100]: 4 times the minimum number of steps, 1.33 "
        "times the minimum number of examples"
    )


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


def test_a_bound_above_the_average_is_what_the_costs_rest_on():
    """At least 9000 at the end, 96 on average: the average is not what the end costs."""
    found = findings(steps(96.0, 1.0, 0.1))
    end = found.estimate._replace(noise_scale=None, low=9000.0, high=None, resolved=False)
    _, costs, *_ = str(found._replace(estimate=end)).splitlines()
    assert costs.strip().endswith(": at least 282 times the minimum number of steps")


def test_a_short_window_is_not_told_to_raise_decay():
    found = findings(steps(96.0, 1.0, 0.1, 5.0))
    short = RunningAverage(0.9)
    for m in steps(96.0, 1.0, 0.1, 5.0):
        short.update(m)
    text = str(found._replace(average=short))
    assert "raise decay" not in text and "has changed lately" in text


def test_verdict_of_an_unresolved_run():
    text = str(findings(steps(96.0, 1.0, 0.1, 5.0)))
    assert text.startswith("noise scale: b_simple not resolved, at least ")
    assert "not resolved from zero" in text and "steps like these resolve it" in text
    assert "at least" in text.splitlines()[1]


def test_verdict_of_nothing():
    text = str(findings([], global_size=None, skipped={ONE_GROUP: 3}))
    assert text.splitlines()[0] == "noise scale: b_simple not measured yet (examples)"
    warning = "warning: skipped 3 steps: only one group of gradients in the step"
    assert text.splitlines()[-1].strip() == warning


def test_verdict_of_too_few_steps():
    text = str(findings(steps(96.0, 1.0, 0.1)[:4]))
    assert text.startswith("noise scale: b_simple not measured yet")
    assert "needs five measured steps" in text and "upper bound" not in text


def test_verdict_says_when_one_step_rules_and_when_the_data_set_is_too_small():
    heavy = [
        *steps(96.0, 1.0, 0.1),
        Moments(1 + 9600 / 8, 1 + 9600 / 32, 1 / 8, 1 / 32),
        *steps(96.0, 1.0, 0.1),
    ]
    assert "one step holds" in str(findings(heavy))
    assert "of the order of the data set (100 examples)" in str(
        findings(steps(960.0, 1.0, 0.1), data_size=100)
    )


def test_fit_prints_the_verdict(capsys):
    fit(Regression(), data(), GradientNoiseScale(), epochs=8)
    out = capsys.readouterr().out
    assert out.startswith("noise scale: b_simple ")
    assert "64 steps measured" in out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unbounded"),
        (0, "0"),
        (4.0, "4"),
        (1234567.0, "1230000"),
        (-0.5, "-0.5"),
        (math.inf, "inf"),
    ],
)
def test_number(value, text):
    assert number(value) == text
