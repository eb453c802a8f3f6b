"""The figures hold the numbers they are given and can be read without colour.

Without matplotlib they name what to install.
"""

import sys

import pytest

from lightning_noise.report import figures, frontier_figure, rate_figures
from lightning_noise.report.curves import frontier, steps_curve
from lightning_noise.report.fronts import fronts
from lightning_noise.report.rates import rate_map, rate_rule
from testing.synthetic_studies import SIZES, study

pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle


def texts(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def is_grey(figure):
    """Every line and patch is a grey, so nothing is told by colour."""
    colours = []
    for axes in figure.axes:
        for line in axes.lines:
            colours += [line.get_color(), line.get_markeredgecolor()]
        for patch in axes.patches:
            colours += [patch.get_facecolor(), patch.get_edgecolor()]
    return all(len({round(part, 3) for part in to_rgb(colour)}) == 1 for colour in colours)


def test_steps(tmp_path):
    curve = steps_curve(study())
    figure = figures.draw_steps(curve)
    axes = figure.axes[0]
    (runs,) = (line for line in axes.lines if line.get_label() == "runs")
    assert list(runs.get_ydata()) == [point.steps for point in curve.points]
    assert [text.get_text() for text in axes.texts] == [
        "perfect\nscaling",
        "diminishing\nreturns",
        "maximal\nparallelism",
        "$B_\\mathrm{crit}$ = 296 [277 to 317]",
        "1 of 3\nmissed",
    ]
    assert any("95 % interval" in text and " to " in text for text in texts(figure))
    assert is_grey(figure)
    figure.savefig(tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 10_000


def on_axis(axes):
    """What is drawn at a height of the axes, by marker: the positions along the axis."""
    found = {}
    for line in axes.lines:
        if line.get_transform() == axes.get_xaxis_transform():
            found[line.get_marker()] = list(line.get_xdata())
    return found


def test_b_crit_and_its_interval_are_marked_on_the_axis():
    curve = steps_curve(study())
    axes = figures.draw_steps(curve).axes[0]
    fit = curve.fit
    assert on_axis(axes) == {"None": [fit.low, fit.high], "D": [fit.b_crit]}
    lines = [line for line in axes.lines if list(line.get_xdata()) == [fit.b_crit] * 2]
    assert [line.get_ydata()[0] for line in lines] == [pytest.approx(2 * fit.s_min)]


def test_an_open_end_of_the_interval_is_an_arrow():
    curve = steps_curve(study(sizes=(8, 16, 32, 64, 128, 256)))
    axes = figures.draw_steps(curve).axes[0]
    assert curve.fit.high is None
    right = axes.get_xlim()[1]
    assert on_axis(axes) == {"None": [curve.fit.low, right], ">": [right], "D": [curve.fit.b_crit]}
    assert "[at least 263]" in axes.texts[-2].get_text()


def test_means_have_bars_and_the_fit_two_bands():
    curve = steps_curve(study())
    axes = figures.draw_steps(curve).axes[0]
    (bars,) = axes.containers
    squares, _, (rods,) = bars.lines
    assert list(squares.get_ydata()) == [mean.steps for mean in curve.means]
    ends = [tuple(segment[:, 1]) for segment in rods.get_segments()]
    expected = [(mean.low or mean.steps, mean.high or mean.steps) for mean in curve.means]
    assert ends == [pytest.approx(pair) for pair in expected]
    inner, outer = axes.collections[1:]
    assert inner.get_paths()[0].vertices[:, 1].max() == pytest.approx(max(curve.high))
    assert outer.get_paths()[0].vertices[:, 1].max() == pytest.approx(max(curve.joint_high))


def test_nothing_lies_behind_the_marks_above_the_axis():
    for rows in (study(), study(b_crit=30), study(sizes=(8, 16))):
        curve = steps_curve(rows)
        axes = figures.draw_steps(curve).axes[0]
        fewest = min(point.steps for point in curve.points)
        height = axes.transAxes.inverted().transform(axes.transData.transform((8, fewest)))[1]
        assert height > figures.STRIP + figures.MISSED


def test_steps_without_a_fit_show_the_runs_alone():
    curve = steps_curve(study(sizes=(8, 16)))
    figure = figures.draw_steps(curve)
    assert figure.axes[0].get_title().endswith("(no fit)")
    assert texts(figure) == ["runs"]
    reason = figure.axes[0].texts[0].get_text()
    assert reason.replace("\n", " ") == f"No fit: {curve.refusal}"
    assert "Add 2, 4, 64, 256, say: about 92 runs" in curve.refusal


def test_regimes_out_of_sight_are_not_named():
    curve = steps_curve(study(sizes=(64, 128, 256, 512, 1024)))
    named = [text.get_text() for text in figures.draw_steps(curve).axes[0].texts]
    assert "diminishing\nreturns" in named and "perfect\nscaling" not in named


def test_two_goals_share_a_panel():
    curves = [steps_curve(study()), steps_curve(study(goal="few", sizes=(8, 16)))]
    figure = frontier_figure.draw_frontier([frontier(curve) for curve in curves])
    said = texts(figure)
    assert [text.split(":")[0] for text in said] == ["error 3 %", "few"]
    assert "B_\\mathrm{crit}" in said[0] and said[1] == "few"
    lines = figure.axes[0].get_legend().get_lines()
    looks = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == 2
    assert is_grey(figure)


def test_more_goals_have_a_panel_each_on_the_same_axes():
    curves = [steps_curve(study(goal=f"goal {i}", harder=1 + i, seed=i)) for i in range(4)]
    curves.append(steps_curve(study(goal="few", sizes=(8, 16))))
    figure = frontier_figure.draw_frontier([frontier(curve) for curve in curves])
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["goal 0", "goal 1", "goal 2", "goal 3", "few"]
    assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in figure.axes}) == 1
    for axes, curve in zip(figure.axes, curves, strict=True):
        plus = [line for line in axes.lines if line.get_marker() == "+"]
        twice = [] if curve.fit is None else [2 * curve.fit.s_min]
        assert [line.get_xdata()[0] for line in plus] == twice
    assert is_grey(figure)


def many_goals(targets, metric="val_loss"):
    rows = []
    for i, target in enumerate(targets):
        for row in study(goal=f"{metric} {i}", harder=1 + i, seed=i):
            rows.append({**row, "metric": metric, "target": target})
    return rows


def curves_of(rows):
    return [steps_curve(rows, goal) for goal in dict.fromkeys(row["goal"] for row in rows)]


def test_many_goals_on_one_metric_are_fronts_in_the_colour_of_their_target():
    rows = many_goals((1.0, 0.5, 0.25, 2.0))
    found = fronts(rows, curves_of(rows))
    assert [front.target for front in found.fronts] == [0.25, 0.5, 1.0, 2.0]
    figure = frontier_figure.draw_fronts(found)
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
    shades = [sum(to_rgb(line.get_color())) for line in lines]
    assert shades == sorted(shades) and len(set(shades)) == 4  # lighter for an easier goal
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert labels == ["0.25", "0.5", "1", "2"]
    assert figure.axes[1].get_ylabel() == "val_loss to reach"


@pytest.mark.parametrize("targets", [(1.0, 0.5, 0.25), (1.0, 0.5, 0.25, 0.5)])
def test_few_goals_or_equal_targets_are_no_fronts(targets):
    rows = many_goals(targets)
    assert fronts(rows, curves_of(rows)) is None
    plain = [*rows, *many_goals((0.1, 0.2), metric="error")]
    assert fronts(plain, curves_of(plain)) is None


def test_rate_map_tells_the_ends_of_trials_apart_without_colour():
    rows = study()
    for row in rows:
        row["pruned"] = row["global_size"] > 64
    found = rate_map(rows)
    figure = rate_figures.draw_rate_map(found)
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(boxes) == len(found.cells)
    hatches = {cell.status: set() for cell in found.cells}
    for cell, box in zip(found.cells, boxes, strict=True):
        hatches[cell.status].add(box.get_hatch())
    assert hatches == {
        "reached": {None},
        "pruned": {".."},
        "incomplete": {"///"},
        "diverged": {"xxxx"},
    }
    assert "pruned: could no longer win" in texts(figure)
    markers = [line.get_marker() for line in figure.axes[0].lines]
    assert (markers.count("*"), markers.count("^")) == (len(SIZES) - 1, 1)
    assert is_grey(figure)


def test_rate_rule():
    rows = study()
    figure = rate_figures.draw_rate_rule(rate_rule(rows, steps_curve(rows)))
    said = texts(figure)
    assert "\\alpha" in said[0] and "95 %" in said[0]
    assert "linear rule" in said[1] and "square-root rule" in said[2]
    assert "edge of the search" in said[4]
    short = study(sizes=(8, 16, 32, 64))
    for row in short:
        row["boundary"] = False
    slope = rate_figures.draw_rate_rule(rate_rule(short, steps_curve(short)._replace(fit=None)))
    assert "\\propto B^\\alpha" in texts(slope)[0]
    few = study(sizes=(8, 16))
    assert texts(rate_figures.draw_rate_rule(rate_rule(few, steps_curve(few)))) == [
        "best trial",
        "best trial on the edge of the search, not in the fit",
    ]
    assert is_grey(figure)


def test_many_sizes_get_ticks_that_can_be_read():
    curve = steps_curve(study(sizes=tuple(range(8, 72, 2))))
    assert len(figures.draw_steps(curve).axes[0].get_xticks()) <= 16


@pytest.mark.parametrize(("harder", "said"), [(0.01, "10"), (1, "500"), (1e4, "$5\\times10^{6}$")])
def test_ticks_are_plain_numbers(harder, said):
    rows = study(harder=harder, sizes=(128, 256, 512, 1024))
    axes = figures.draw_steps(steps_curve(rows)).axes[0]
    axes.figure.draw_without_rendering()
    assert said in [tick.get_text() for tick in axes.get_yticklabels()]


def test_a_size_that_missed_the_goal_is_in_sight():
    rows = study(sizes=(8, 16, 32))
    for row in rows:
        if row["global_size"] == 32:
            row.update(status="incomplete", steps=None, best=False)
    axes = figures.draw_steps(
        steps_curve([row for row in rows if row["global_size"] < 32 or row["phase"] == "search"]),
    ).axes[0]
    assert axes.get_xlim()[1] > 32
    assert "20 of 20\nmissed" in [text.get_text() for text in axes.texts]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[plots\]'"):
        figures.draw_steps(steps_curve(study()))
