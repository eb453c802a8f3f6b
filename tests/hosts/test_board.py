"""TensorBoard's page *custom scalars*, read back from event files and through its own backend."""

import json
import threading
import warnings
from math import log10
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext

from lightning_noise import GradientNoiseScale
from lightning_noise.hosts.lightning import board
from lightning_noise.hosts.lightning.board import Interval, points
from testing.event_files import scalars
from testing.gans import Gan, gan_data
from testing.models import Lost
from testing.toys import Regression, data, fit

PARTS = ("", "_low", "_high", "_nearest")
MINE = {"losses": {"my loss": ["Multiline", ["train_loss"]]}}


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """B_simple is resolved at first and not at the end: values of both runs by tag and step."""
    logger = TensorBoardLogger(tmp_path_factory.mktemp("lost"))
    callback = GradientNoiseScale(decay=0.9)
    fit(Lost(), data(examples=128), callback, logger=logger, epochs=8, log_every_n_steps=1)
    folders = (Path(logger.log_dir), Path(logger.log_dir) / "batch_size")
    return [{tag: dict(values) for tag, values in scalars(folder).items()} for folder in folders]


def page(folder):
    """The layout that TensorBoard shows for a folder, and the tags of the runs it finds there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a library inside TensorBoard
        from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = TBContext(logdir=str(folder), data_provider=provider, plugin_name_to_instance={})
    layout = CustomScalarsPlugin(context).layout_impl(RequestContext(), "")
    return json.loads(layout), multiplexer.Runs()


def charts(folder):
    shown, _ = page(folder)
    found = {}
    for category in shown["category"]:
        found[category["title"]] = [chart["title"] for chart in category["chart"]]
    return found


def test_the_band_is_logged_at_every_step_that_has_a_lower_end(lost):
    run, batch_size = lost
    steps = list(run["noise_scale/b_simple_low"])
    assert len(steps) > len(run["noise_scale/b_simple"]) > 0
    assert [list(run[f"noise_scale_band/log10{part}"]) for part in PARTS] == [steps] * 4
    assert [list(values) for values in batch_size.values()] == [steps] * 2


def test_a_resolved_step_shows_the_value_and_both_ends(lost):
    run, _ = lost
    for step, value in run["noise_scale/b_simple"].items():
        low, high = (run[f"noise_scale/b_simple_{end}"][step] for end in ("low", "high"))
        found = [run[f"noise_scale_band/log10{part}"][step] for part in ("", "_low", "_high")]
        shown = [log10(value), log10(low), log10(min(high, 100 * value))]
        assert found == pytest.approx(shown, abs=1e-5)


def test_an_unresolved_step_shows_the_lower_end_and_a_band_of_two_decades(lost):
    run, _ = lost
    unresolved = run["noise_scale/b_simple_low"].keys() - run["noise_scale/b_simple"].keys()
    for step in unresolved:
        low = log10(run["noise_scale/b_simple_low"][step])
        found = [run[f"noise_scale_band/log10{part}"][step] for part in ("", "_low", "_high")]
        assert found == pytest.approx([low, low, low + 2], abs=1e-5)


def test_the_second_chart_has_the_lower_end_over_the_batch_size(lost):
    """One line per run: several runs need no batch sizes beside it."""
    run, _ = lost
    expected = {}
    for step, low in run["noise_scale/b_simple_low"].items():
        expected[step] = log10(low / 8)
    assert run["noise_scale_band/log10_low_over_size"] == pytest.approx(expected, abs=1e-5)


def test_without_a_batch_size_the_second_chart_has_no_point():
    assert points(Interval(low=50.0, noise_scale=80.0, high=90.0, global_size=None)).ratio is None


def test_titles_have_three_lines_at_most():
    assert all(len(title) <= 3 * 46 for title in (board.TITLE, board.RATIO))


def test_the_batch_size_is_a_run_of_its_own_under_the_tag_of_the_line(lost):
    _, batch_size = lost
    assert set(batch_size) == {"noise_scale_band/log10", "noise_scale_band/log10_nearest"}
    for values in batch_size.values():
        assert list(values.values()) == pytest.approx([log10(8)] * len(values), abs=1e-6)


@pytest.mark.parametrize(
    ("low", "b_simple", "high", "size", "nearest"),
    [
        (50.0, 100.0, 300.0, 32.0, 50.0),
        (50.0, 100.0, 300.0, 128.0, 128.0),
        (50.0, 100.0, 300.0, 512.0, 300.0),
        (50.0, None, None, 512.0, 512.0),
        (50.0, None, None, 9000.0, 5000.0),  # the open end is drawn there
        (50.0, 100.0, 1e9, 1e5, 10000.0),
        (50.0, 100.0, 300.0, None, 100.0),
        (50.0, 100.0, 300.0, 0.0, 100.0),
    ],
)
def test_the_band_hangs_on_its_point_nearest_to_the_batch_size(low, b_simple, high, size, nearest):
    drawn = points(Interval(low=low, noise_scale=b_simple, high=high, global_size=size))
    assert drawn.nearest == pytest.approx(log10(nearest))
    assert drawn.low <= drawn.nearest <= drawn.high


def test_the_layout_draws_the_band_from_its_nearest_point_to_both_ends(tmp_path):
    fit(Regression(), data(), GradientNoiseScale(), logger=TensorBoardLogger(tmp_path))
    shown, _ = page(tmp_path)
    (category,) = shown["category"]
    chart, ratio = category["chart"]
    assert category["title"] == "noise scale"
    assert chart["title"].startswith("Curve above the batch size: a larger batch pays (log10")
    line, low, high, nearest = (f"noise_scale_band/log10{part}" for part in PARTS)
    assert chart["margin"]["series"] == [
        {"value": line, "lower": line, "upper": line},
        {"value": line, "lower": low, "upper": nearest},
        {"value": low, "lower": high, "upper": nearest},
    ]
    assert ratio["title"].startswith("Above 0: a larger batch pays")
    assert ratio["multiline"]["tag"] == ["noise_scale_band/log10_low_over_size$"]


class Layout(L.Callback):
    """Writes a layout of the user's own, before or after that of the noise scale."""

    def __init__(self, hook):
        setattr(self, hook, self.write)

    def write(self, trainer, *_):
        trainer.logger.experiment.add_custom_scalars(MINE)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_end"])
def test_a_layout_of_the_user_and_that_of_the_noise_scale_are_both_shown(tmp_path, hook):
    logger = TensorBoardLogger(tmp_path)
    fit(Regression(), data(), Layout(hook), GradientNoiseScale(), logger=logger)
    shown = charts(tmp_path)
    assert list(shown) == ["losses", "noise scale"]
    assert shown["losses"] == ["my loss"] and len(shown["noise scale"]) == 2


def test_runs_in_one_folder_share_one_chart(tmp_path):
    for _ in range(3):
        fit(Regression(), data(), GradientNoiseScale(), logger=TensorBoardLogger(tmp_path))
    assert [len(found) for found in charts(tmp_path).values()] == [2]


@pytest.mark.filterwarnings("ignore")
def test_no_run_is_reported_for_missing_tags(tmp_path):
    """TensorBoard reports a run unless it lacks none or three of the margins of a chart."""
    logger, loader = TensorBoardLogger(tmp_path), gan_data(examples=400)
    fit(Gan(), loader, GradientNoiseScale(), accumulate=1, logger=logger, log_every_n_steps=10)
    shown, runs = page(tmp_path)
    lacking = {}
    for category in shown["category"]:
        chart, _ = category["chart"]
        margins = [tag for series in chart["margin"]["series"] for tag in series.values()]
        for run, found in runs.items():
            missing = [tag for tag in margins if tag not in found["tensors"]]
            lacking[category["title"], Path(run).name] = len(missing)
    assert lacking == {
        ("noise scale of Adam", "version_0"): 0,
        ("noise scale of Adam", "batch_size"): 3,
        ("noise scale of Adam-1", "version_0"): 0,
        ("noise scale of Adam-1", "batch_size"): 3,
    }


def test_a_prefix_of_the_logger_leaves_the_chart_whole(tmp_path):
    logger = TensorBoardLogger(tmp_path, prefix="mine")
    fit(Regression(), data(), GradientNoiseScale(), logger=logger)
    found = scalars(logger.log_dir)
    assert "mine-noise_scale/trace" in found
    assert {f"noise_scale_band/log10{part}" for part in PARTS} <= found.keys()


def test_a_second_fit_with_the_same_logger_goes_on_and_no_thread_stays(tmp_path):
    logger, callback, module = TensorBoardLogger(tmp_path), GradientNoiseScale(), Regression()
    before = threading.active_count()
    fit(module, data(), callback, logger=logger, log_every_n_steps=4)
    assert threading.active_count() == before
    fit(module, data(), callback, logger=logger, log_every_n_steps=4, epochs=2)
    assert threading.active_count() == before
    run, batch_size = scalars(logger.log_dir), scalars(f"{logger.log_dir}/batch_size")
    steps = [step for step, _ in run["noise_scale/b_simple_low"]]
    assert [step for step, _ in batch_size["noise_scale_band/log10"]] == steps
    assert len(steps) > 4
