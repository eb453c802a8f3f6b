"""What search trials give for a fixed budget, as numbers and as a figure."""

import pytest

from lightning_noise.report.budget import fixed_budget

pytest.importorskip("matplotlib")
from lightning_noise.report import budget_figure


def trial(size, best_value, status="reached", **changes):
    found = {
        "goal": "g",
        "global_size": size,
        "phase": "search",
        "status": status,
        "steps": 5.0 if status == "reached" else None,
        "best_value": best_value,
        "mode": "min",
        "metric": "val_loss",
        "target": 0.25,
        "pruned": False,
    }
    return {**found, **changes}


def rows():
    return [
        trial(8, 0.2),
        trial(8, 0.3, "incomplete"),
        trial(16, 0.1),
        trial(16, 0.15),
        trial(16, None, "diverged"),
        trial(16, 0.05, refined=True),
        trial(16, 0.01, phase="rerun"),
    ]


def test_best_values_and_shares():
    found = fixed_budget(rows(), "g")
    assert found.best == {8: 0.2, 16: 0.05}
    assert found.shares == {8: 1 / 2, 16: 2 / 3}
    assert found.trials == {8: 2, 16: 3}
    assert (found.mode, found.metric, found.target) == ("min", "val_loss", 0.25)


def test_of_pruned_runs_it_is_not_known():
    pruned = [{**row, "pruned": True} for row in rows()]
    unknown = [{name: row[name] for name in row if name != "pruned"} for row in rows()]
    assert fixed_budget(pruned, "g") is None
    assert fixed_budget(unknown, "g") is None
    assert fixed_budget([row for row in rows() if row["global_size"] == 8], "g") is None


def test_the_figure_shows_the_numbers_and_the_goal():
    figure = budget_figure.draw_fixed_budget(fixed_budget(rows(), "g"))
    upper, lower = figure.axes
    best, goal = upper.lines
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([8, 16], [0.2, 0.05])
    assert list(goal.get_ydata()) == [0.25, 0.25]
    assert upper.get_ylabel() == "best val_loss (lower is better)"
    assert list(lower.lines[0].get_ydata()) == pytest.approx([50, 200 / 3])
    assert [text.get_text() for text in lower.texts] == ["of 2 to 3 trials per batch size"]
    for axes in (upper, lower):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16"]
