"""The figure of a run and the verdict, in the loggers that show pictures and texts."""

import time
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_noise import GradientNoiseScale
from lightning_noise.hosts.lightning import pictures
from testing.toys import Regression, data, fit


def shown(logger):
    """Steps by tag of images, and the last text by tag."""
    found = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()
    images = {tag: [image.step for image in found.Images(tag)] for tag in tags["images"]}
    texts = {}
    for tag in tags["tensors"]:
        if tag.endswith("/text_summary"):
            texts[tag] = found.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    return images, texts


def test_tensorboard_shows_the_run_and_the_verdict_at_the_end(tmp_path):
    callback, logger = GradientNoiseScale(), TensorBoardLogger(tmp_path)
    fit(Regression(), data(), callback, logger=logger, epochs=4)
    images, texts = shown(logger)
    assert list(images) == ["noise_scale/figure"] and images["noise_scale/figure"][-1] == 31
    (text,) = texts.values()
    assert text.replace("  \n", "\n") == str(callback.verdict())


def test_tensorboard_gets_a_picture_whose_letters_can_be_read_on_a_small_card(tmp_path):
    """On 350 pixels, letters of 10 points are 8 pixels high on six inches, and 5 on nine."""
    logger = TensorBoardLogger(tmp_path)
    fit(Regression(), data(), GradientNoiseScale(), logger=logger)
    found = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    picture = found.Images("noise_scale/figure")[-1]
    assert (picture.width, picture.height) == (900, 900)  # 6 inches


def test_every_epoch_is_shown_where_drawing_takes_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_TIME", float("inf"))
    logger = TensorBoardLogger(tmp_path)
    fit(Regression(), data(), GradientNoiseScale(), logger=logger, epochs=4)
    assert shown(logger)[0] == {"noise_scale/figure": [7, 15, 23, 31]}


def test_drawing_takes_a_bounded_share_of_the_time(tmp_path, monkeypatch):
    """A figure that takes a second is drawn again after a hundred seconds."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    draw = pictures.draw_run

    def slow(*args, **kwargs):
        now[0] += 1.0
        return draw(*args, **kwargs)

    class Clock(GradientNoiseScale):
        def on_train_epoch_start(self, *args):
            now[0] += 30.0
            super().on_train_epoch_start(*args)

    monkeypatch.setattr(pictures, "draw_run", slow)
    logger = TensorBoardLogger(tmp_path)
    fit(Regression(), data(), Clock(), logger=logger, epochs=6)
    # drawn at 30 s, until 31; due again at 131, so at the end of epoch 4, and at the end of the fit
    assert shown(logger)[0] == {"noise_scale/figure": [7, 39, 47]}


def test_nothing_is_shown_without_being_wanted(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(Regression(), data(), GradientNoiseScale(figures=False), logger=logger)
    assert shown(logger) == ({}, {})


def test_loggers_without_pictures_are_left_alone(tmp_path):
    fit(Regression(), data(), GradientNoiseScale(), logger=CSVLogger(tmp_path))
    assert not list(Path(tmp_path).rglob("*.png"))


class Recorded(WandbLogger):
    """W&B without its package: keeps what is logged."""

    def __init__(self):
        self.calls = []

    @property
    def name(self):
        return "recorded"

    @property
    def version(self):
        return "0"

    @property
    def save_dir(self):
        return None

    @property
    def experiment(self):
        return self

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def finalize(self, status):
        pass

    def log_image(self, key, images, step=None, **_):
        self.calls.append((key, len(images), step))

    def log_text(self, key, columns=None, data=None, dataframe=None, step=None):
        self.calls.append((key, data[0][0], step))


def test_weights_and_biases_gets_figure_and_text():
    callback, logger = GradientNoiseScale(), Recorded()
    fit(Regression(), data(), callback, logger=logger)
    assert logger.calls[-2:] == [
        ("noise_scale/figure", 1, 7),
        ("noise_scale/verdict", str(callback.verdict()), 7),
    ]


def test_figures_must_be_a_flag():
    with pytest.raises(TypeError, match="figures must be a bool"):
        GradientNoiseScale(figures=1)
