"""The adaptive benchmark, run small: its search, its book, and what the report says of runs with
known figures.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.gain import adaptive, adaptive_runs
from benchmarks.gain import adaptive_report as report
from benchmarks.gain.adaptive_runs import Run
from benchmarks.gain.adaptive_tasks import TASKS
from benchmarks.harness.rows import File

TASK = replace(TASKS["digits"], goal=0.3, sizes=(64,), most_examples=12_000, data=[])


def finish(steps):
    """What a generator returns, and all that it has handed on."""
    returned = []

    def keeping():
        returned.append((yield from steps))

    found = [run for group in keeping() for run in group]
    return returned[0], found


class Recipe(adaptive.Book):
    """A book whose runs follow a formula: best at a rate of 0.32, no goal above 0.7."""

    def run(self, task, kind, size, rate, seed, most_examples):
        examples = round(1000 * (rate / 0.32 + 0.32 / rate))
        done = Run(
            task.name, kind, size, rate, seed, int(rate < 0.7), examples // size, examples, 0.0
        )
        self.runs[done[:5]] = done
        yield [done]
        return done


@pytest.mark.parametrize("start", [-9, 0, 3, 9])
def test_the_search_finds_the_best_rate_from_either_side(start):
    search = adaptive.Search(Recipe({}), TASK, "fixed", 16)
    assert TASK.rate_at(finish(search.best_from(start))[0]) == pytest.approx(0.32)


@pytest.mark.parametrize("kind", ["fixed", "TrackNoiseScale()"])
def test_a_run_reaches_the_goal_and_is_not_run_again(kind, tmp_path):
    path = tmp_path / "book.csv"
    first, new = finish(adaptive.Book({}).run(TASK, kind, 16, 0.1, 3, 12_000))
    assert new == [first]
    assert first.reached and 0 < first.examples <= first.steps * (16 if kind == "fixed" else 1024)
    assert (kind == "fixed") == (first.path == "")
    if kind != "fixed":
        assert first.path.startswith("16x113") and first.steps == sum(
            report._period(word)[1] for word in first.path.split()
        )
    File(adaptive.BENCHMARK, path).add(new)
    # its time is up: it would refuse to run
    again = adaptive.Book(File(adaptive.BENCHMARK, path).done, deadline=0.0)
    assert finish(again.run(TASK, kind, 16, 0.1, 3, 12_000)) == (first, [])
    with pytest.raises(TimeoutError):
        finish(again.run(TASK, kind, 16, 0.1, 4, 12_000))


def test_a_run_that_diverges_or_gives_up_has_not_reached_the_goal():
    diverged = adaptive_runs.run_fixed(TASK, 64, 1e30, 0, 50_000)
    gave_up = adaptive_runs.run_fixed(TASK, 64, 1e-6, 0, 500)
    assert not diverged.reached and diverged.examples < 1000
    assert not gave_up.reached and gave_up.examples == 512


def test_the_smoothed_loss_is_the_same_for_any_size():
    small, large = adaptive_runs.Smoothed(100), adaptive_runs.Smoothed(100)
    for _ in range(64):
        value = small.update(2.0, 1)
    assert value == pytest.approx(2.0) == large.update(2.0, 64)
    for _ in range(64):
        value = small.update(1.0, 1)
    assert value == pytest.approx(large.update(1.0, 64))


def runs_of(kind, size, steps, examples, path="", reached=1):
    return [
        Run("toy", kind, size, 0.1, seed, reached, steps, examples, 1.0, path) for seed in range(7)
    ]


RUNS = (
    *runs_of("fixed", 10, 1000, 10_000),
    *runs_of("fixed", 40, 400, 16_000),
    *runs_of("fixed", 80, 500, 40_000),
    *runs_of("fixed", 99, 1, 1, reached=0),
    *runs_of("better", 10, 500, 10_500, "10x100@10 40x100@40"),
    *runs_of("worse", 10, 450, 20_000),
)


def test_report(tmp_path):
    rows = report.summaries(RUNS)
    assert [(row.name, row.runs, row.reached) for row in rows[:4]] == [
        ("fixed 10", 5, 5),
        ("fixed 40", 5, 5),
        ("fixed 80", 5, 5),
        ("fixed 99", 5, 0),
    ]
    fixed = report.undominated(row for row in rows if row.kind == "fixed")
    assert [row.size for row in fixed] == [10, 40]
    table = report.table(rows)
    assert "| **`better`** | 0.1 | 500 ± 0 | 10 500 ± 0 | 5 of 5 |" in table
    assert "| fixed 99 | 0.1 | nan" in table
    better, worse = report.remarks(rows)
    assert "beaten in both by fixed sizes: none" in better
    assert "fixed 10 (-5% examples): -50% steps" in better
    assert "beaten in both by fixed sizes: 40;" in worse and "no fixed size" in worse
    report.draw(RUNS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_the_ticks_of_a_long_axis_do_not_collide():
    """From 10 000 to 200 000 on a panel of the figure's width, where 40 000 met 50 000."""
    figure = Figure(figsize=(5.6, 5.4), dpi=130)
    FigureCanvasAgg(figure)
    panel = figure.add_subplot()
    panel.plot([11_000, 180_000], [160, 800], label="runs")
    report._label(panel, "language model")
    figure.canvas.draw()
    for axis, side in ((panel.xaxis, 0), (panel.yaxis, 1)):
        labels = [*axis.get_majorticklabels(), *axis.get_minorticklabels()]
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        ends = sorted((box.min[side], box.max[side]) for box in boxes)
        assert len(ends) >= 2
        assert all(left[1] < right[0] for left, right in pairwise(ends))


def test_prediction_by_hand():
    # 100 steps at B = R: half of them are progress, so S_min = 50 + 50; E_min = 10·50 + 40·50
    found = report.predict("10x100@10 40x100@40")
    assert found.gamma == pytest.approx((10**0.5 * 50 + 40**0.5 * 50) ** 2 / (100 * 2500))
    fixed_size = (5000 - 2500) / 100
    assert found.saved == pytest.approx(1 - 200 / (100 + 2500 / fixed_size))
    assert report.predict("10x100 20x5") is None
    assert report.predict("10x100@10 40x100").gamma == pytest.approx(1.0)


def test_steps_between_fixed_sizes():
    rows = [
        report.Row("toy", "fixed", b, 0.1, 5, 5, s, 0.0, e, 0.0, ())
        for b, s, e in ((1, 1000.0, 100.0), (2, 10.0, 10_000.0))
    ]
    assert report.steps_at(rows, 1000.0) == pytest.approx(100.0)
    assert report.steps_at(rows, 99.0) is None and report.steps_at(rows, 10_001.0) is None
