"""What a terminal shows during ``measure_noise_scale``, by a clock of its own."""

import functools
import math
import re
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from lightning_noise import measure_noise_scale
from lightning_noise.hosts.lightning import pause_progress
from lightning_noise.measure.sampling_plan import Plan

PILOT = 8 * 32  # examples: eight probes, each of two batches of 16
# The bar is drawn by updates alone, not by the thread that tqdm wakes every ten real seconds.
EVERY_UPDATE = {"mininterval": 0, "maxinterval": math.inf}
FRAME = re.compile(r"noise scale: .*?(?=\r|\n|$)")
TIMES = r"\[(\d+):(\d\d)<(\d+):(\d\d), +[\d.]+ examples/s\]"
WITH_TOTAL = re.compile(rf"noise scale: .*\| (\d+)/(\d+) {TIMES}")
WITHOUT_TOTAL = re.compile(r"noise scale: (\d+) examples \[\d+:\d\d, ( *[\d.]+|\?) examples/s\]")


def elapsed(used):
    """Seconds for so many examples: 1/64 each, twice that in the pilot, as on a cold device."""
    return (used + min(used, PILOT)) / 64


@pytest.fixture
def shown(monkeypatch, capsys):
    """The result, every state of the bar, and all lines printed."""
    used = [0]
    monkeypatch.setattr("tqdm.std.time", lambda: elapsed(used[0]))
    monkeypatch.setattr(pause_progress, "tqdm", functools.partial(tqdm, **EVERY_UPDATE))
    monkeypatch.setattr(
        pause_progress, "rank_zero_info", lambda text: sys.stderr.write(f"{text}\n")
    )

    def loss(module, batch):
        used[0] += len(batch)
        return (module(batch) - 1).square().mean()

    def run(**arguments):
        loader = DataLoader(torch.randn(4096, 2), batch_size=16, shuffle=True)
        arguments = {"loss_fn": loss, "geometry": "euclidean", **arguments}
        found = measure_noise_scale(nn.Linear(2, 1), loader, **arguments)
        printed = capsys.readouterr().err
        frames = [frame.rstrip() for frame in FRAME.findall(printed)]
        return found, frames, re.split(r"[\r\n]+", printed)

    return run


def test_whole_numbers_and_a_total_of_no_more_than_is_allowed(shown):
    found, frames, _ = shown(relative_error=0.001, max_examples=5000)
    matches = [WITH_TOTAL.fullmatch(frame) for frame in frames if "/5000 " in frame]
    assert found.needed > 5000 and None not in matches
    assert [int(match[1]) for match in matches][-1] == found.examples
    assert all(WITHOUT_TOTAL.fullmatch(frame) for frame in frames if "/5000 " not in frame)


def test_the_time_left_is_that_of_the_examples_left(shown):
    _, frames, _ = shown(relative_error=0.05, max_examples=math.inf)
    matches = [match for frame in frames if (match := WITH_TOTAL.fullmatch(frame))]
    assert len({match[2] for match in matches}) > 1  # the forecast changes on the way
    for match in matches:
        used, total, *clock = map(int, match.groups())
        rate = used / elapsed(used)
        assert 60 * clock[0] + clock[1] == int(elapsed(used))
        assert 60 * clock[2] + clock[3] == int((total - used) / rate)


def test_no_time_left_without_a_forecast(shown):
    _, frames, _ = shown(max_examples=2000)
    counts = [int(match[1]) for frame in frames if (match := WITHOUT_TOTAL.fullmatch(frame))]
    assert counts == [*range(0, PILOT + 1, 32)]


def test_the_forecast_has_a_line_of_its_own(shown):
    _, _, lines = shown(max_examples=300)
    said = [line for line in lines if "measure_noise_scale" in line]
    assert [line.split(",")[0] for line in said] == ["measure_noise_scale: after 256 examples"]


def test_a_bar_that_is_off_shows_nothing(shown):
    assert shown(max_examples=300, progress=False)[1] == []


FORECASTS = [
    (0.001, 366434.17, "a relative error of 0.1 % needs about 370000 examples"),
    (0.2, 1512.0, "a relative error of 20 % needs about 1500 examples"),
    (0.2, None, "a noise scale is not resolved, so the number of examples needed is not known yet"),
]


@pytest.mark.parametrize(("target", "needed", "text"), FORECASTS)
@pytest.mark.parametrize(("most", "limit"), [(50_000, "; at most 50000 are used"), (math.inf, "")])
def test_the_forecast_in_words(target, needed, text, most, limit):
    plan = Plan(target, most)
    plan.used, plan.needed = 2896.0, needed
    assert pause_progress.forecast_text(plan) == f"after 2896 examples, {text}{limit}."
