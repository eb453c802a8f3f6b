"""The figure of a run: what is drawn, by what was measured."""

import pytest

from lightning_noise.core.history import Moment
from lightning_noise.report.run_figure import RunPart, draw_run

RESOLVED = [Moment(step, step, 100.0, 80.0, 125.0, 32.0) for step in range(10)]
BOUND = [Moment(step, step, None, 60.0, None, 64.0) for step in range(10, 15)]
PART = RunPart(size=64.0, b=100.0, low=80.0, high=125.0)


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_a_resolved_stretch_has_a_band_and_an_unresolved_one_a_bound():
    upper, _ = draw_run([*RESOLVED, *BOUND], PART).axes
    drawn = lines(upper)
    assert drawn[r"noise scale $B_\mathrm{simple}$, 95 % interval"] == [
        [step, 100.0] for step in range(10)
    ]
    assert drawn["lower bound, where it is not resolved"] == [
        [step, 60.0] for step in range(10, 15)
    ]
    (band,) = upper.collections
    box = band.get_paths()[0].get_extents()
    assert (box.ymin, box.ymax) == pytest.approx((80.0, 125.0))
    assert (box.xmin, box.xmax) == (0, 9)


def test_nothing_bridges_what_is_not_resolved():
    later = [moment._replace(step=moment.step + 15) for moment in RESOLVED]
    upper, _ = draw_run([*RESOLVED, *BOUND, *later], PART).axes
    assert len(upper.collections) == 2


def test_the_trade_off_goes_through_twice_the_minimum_at_the_noise_scale():
    _, lower = draw_run(RESOLVED, PART).axes
    steps, examples = lines(lower)["optimizer steps"], lines(lower)["examples"]
    at = [i for i, (size, _) in enumerate(steps) if size == pytest.approx(100.0)]
    assert [steps[i][1] for i in at] == pytest.approx([2.0])
    assert [examples[i][1] for i in at] == pytest.approx([2.0])
    assert [text.get_text() for text in lower.texts] == ["you are here: 64"]


def test_the_part_that_the_verdict_rests_on_is_shaded():
    upper, _ = draw_run(RESOLVED, PART._replace(until=6)).axes
    (span,) = upper.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (0, 6)
    assert not draw_run(RESOLVED, PART).axes[0].patches


@pytest.mark.parametrize("part", [None, PART._replace(b=None, high=None)])
def test_without_a_resolved_noise_scale_there_is_no_trade_off(part):
    _, lower = draw_run(BOUND, part).axes
    assert [text.get_text() for text in lower.texts] == [
        "no trade-off: the noise scale is not resolved"
    ]
    assert not lower.get_lines()
    assert not lower.axison  # no ticks of an axis that measures nothing


@pytest.mark.parametrize("size", [(4.6, 8.0), (6.0, 6.0), (9.0, 8.0)])
def test_a_long_title_stays_within_a_figure_of_any_width(size):
    title = "Whether your batch size of 8 is right cannot be determined: " + "it is not known. " * 4
    figure = draw_run(RESOLVED, PART, title=title, size=size)
    box = figure._suptitle.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert figure.bbox.x1 == pytest.approx(900)


@pytest.mark.parametrize("size", [(4.6, 8.0), (6.0, 6.0), (9.0, 8.0)])
def test_a_legend_covers_nothing_that_is_drawn_and_is_whole(size):
    figure = draw_run([*RESOLVED, *BOUND], PART, size=size)
    for axes in figure.axes:
        box = axes.get_legend().get_window_extent()
        assert box.y0 >= axes.bbox.y1
        assert box.x1 <= figure.bbox.x1


def test_a_run_without_a_moment_is_refused():
    with pytest.raises(ValueError, match="moments must hold at least one moment"):
        draw_run([], PART)
