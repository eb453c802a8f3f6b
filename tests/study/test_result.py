"""What follows from a table, without any training."""

import pytest

from lightning_noise import CriticalBatchSize
from lightning_noise.report.curves import steps_curve
from lightning_noise.report.fit_text import describe
from lightning_noise.report.table import read_table
from lightning_noise.study import StudyResult

SIZES = [8, 16, 32, 64, 128, 256, 512]


def row(size, steps, phase="rerun", **changes):
    found = {
        "goal": "g",
        "global_size": size,
        "seed": 1,
        "trial": 0,
        "phase": phase,
        "learning_rate": size / 100,
        "status": "incomplete" if steps is None else "reached",
        "steps": steps,
        "examples": None if steps is None else steps * size,
        "best_value": 0.5,
        "boundary": False,
        "best": phase == "search",
        "pruned": False,
        "refined": False,
    }
    return {**found, **changes}


def hyperbola(size):
    return 100 * (1 + 64 / size)


def table(**changes):
    """The search's winner is ten per cent too good, the reruns scatter by a factor of 1.1."""
    found = []
    for size in SIZES:
        found.append(
            row(
                size,
                0.9 * hyperbola(size),
                "search",
                b_simple_start=None,
                b_simple_average=None,
                b_simple_end=None,
            ),
        )
        noise = {"b_simple_start": 20.0, "b_simple_average": 128.0, "b_simple_end": 500.0}
        found.append(row(size, 1.1 * hyperbola(size), **noise))
        found.append(
            row(
                size,
                hyperbola(size) / 1.1,
                b_simple_start=None,
                b_simple_average=None,
                b_simple_end=None,
            ),
        )
    return [{**one, **changes} for one in found]


def test_the_fit_is_that_of_the_reruns():
    result = StudyResult.from_table(table())
    assert result.steps("g") == pytest.approx({size: hyperbola(size) for size in SIZES})
    fit = result.fits["g"]
    assert (fit.b_crit, fit.s_min) == pytest.approx((64, 100))
    assert result.warnings == ()
    assert result.learning_rates("g")[64] == 0.64


def test_the_noise_scale_stands_beside_it():
    result = StudyResult.from_table(table())
    beside = result.compare("g")
    assert (beside.start, beside.average, beside.end, beside.ratio) == pytest.approx(
        (20, 128, 500, 2),
    )
    assert result.compare("g", "b_noise")[5:] == (None,) * 4
    said = "  b_crit 64 examples, 95 % interval 64 to 64: twice the minimum steps and examples"
    assert said in result.summary().splitlines()
    least = "  minimum 100 steps, 6400 examples; residual 0.0 % (rms of ln S)"
    assert least in result.summary().splitlines()
    tuned = "20 at the start, 128 on average (2 b_crit), 500 at the end"
    assert f"b_simple of the tuned runs: {tuned}" in result.summary()
    at_64 = "      64 examples per step: 200 steps, 12800 examples, learning rate 0.64"
    assert at_64 in result.summary()


def test_reruns_that_fail_are_told_and_not_averaged_away():
    rows = [one for one in table() if one["global_size"] not in (8, 16)]
    rows += [row(8, s) for s in (100.0, None, 900.0)]  # the median counts the failure as never
    rows += [row(16, s) for s in (100.0, None)]
    result = StudyResult.from_table(rows)
    assert result.steps("g")[8] == 900
    assert 16 not in result.steps("g")
    median, left_out, budget = (text.removeprefix("g: ") for text in result.warnings[:3])
    told = "at global size 8, 2 of 3 reruns of the winner reached it, so its steps are the median"
    fix = "Raise the budget until all of them reach it: about 3 runs"
    assert median == f"{told} over all of them. {fix}"
    told, fix = left_out.split(", so the size is left out. ")
    assert told == "at global size 16, 1 of 2 reruns of the winner reached it"
    assert fix == (
        "Its winner may have been a lucky run at too high a learning rate (0.16): "
        "lower the upper end of the range below it, or raise the budget: about 2 runs"
    )
    told, fix = budget.split(". ")
    assert told.endswith("biases the fit: 1 of 3 at global size 8, 1 of 2 at global size 16")
    raise_it = "Raise Budget(steps=..., examples=...)"
    assert fix == f"{raise_it}; only what is missing runs again, at most: about 20 runs"


def test_reruns_that_end_at_the_budget_name_it():
    rows = [{**one, "budget_steps": 300} for one in table()]
    rows += [row(8, None, budget_steps=300), row(8, None, budget_steps=300, status="diverged")]
    rows += [row(16, None, budget_steps=1), row(32, None, budget_steps=9, pruned=True)]
    (told,) = (text for text in StudyResult.from_table(rows).warnings if "biases the fit" in text)
    assert "1 of 4 at global size 8 (budget: 300 steps), 1 of 3 at global size 16 (" in told
    assert "(budget: 1 step). Raise Budget(steps=..., examples=...)" in told


def test_a_rerun_that_is_alone_is_counted_in_the_singular():
    rows = [one for one in table() if one["global_size"] != 8] + [row(8, None, learning_rate=None)]
    told = (
        "g: at global size 8, 0 of 1 rerun of the winner reached it, so the size is left out. Its "
        "winner may have been a lucky run: search another range, or raise the budget: about 1 run"
    )
    assert told in StudyResult.from_table(rows).warnings


def test_counts_are_whole_and_an_open_end_is_in_words():
    rows = [row(size, 0.9 + 10 / size, learning_rate=None) for size in (1, 2, 4, 8, 16, 32)]
    lines = StudyResult.from_table(rows).summary().splitlines()
    assert "          1 example per step: 11 steps, 11 examples" in lines
    assert "        32 examples per step: 1 step, 39 examples" in lines
    steep = [row(size, 1000 * factor / size) for size, factor in STEEP]
    assert "examples, 95 % interval at least " in StudyResult.from_table(steep).summary()
    assert "unbounded" not in StudyResult.from_table(steep).summary()


STEEP = ((8, 1.0), (16, 1.02), (32, 0.98), (64, 1.1), (128, 1.3), (256, 1.6))


def test_what_cannot_be_fitted_has_no_fit():
    result = StudyResult.from_table(
        [one for one in table() if one["global_size"] < 64] + [row(1024, None, "search")],
    )
    assert result.fits == {}
    assert result.compare("g").ratio is None
    assert any(text.startswith("g: b_crit could not be determined: ") for text in result.warnings)
    assert any("no trial reached it at global size 1024" in text for text in result.warnings)
    assert "b_crit could not be determined" in result.summary()
    with pytest.raises(ValueError, match=r"goal must be one of 'g', got 'h'"):
        result.steps("h")


def test_a_winner_on_the_boundary_is_told():
    rows = [{**one, "boundary": one["best"] and one["global_size"] in (8, 512)} for one in table()]
    assert "the winner lies on the boundary of the search space at global size 8, 512" in " ".join(
        StudyResult.from_table(rows).warnings,
    )


def test_fixed_budget_figures_are_for_whole_runs_only():
    searched = [(8, 10, 0.1), (8, None, 0.4), (8, 20, 0.2), (16, 10, 0.3), (16, None, None)]
    rows = [row(size, steps, "search", best_value=value) for size, steps, value in searched]
    rows += [row(16, 9, "search", best_value=0.25, refined=True)]
    rows += [row(32, 10, "search", pruned=True), row(32, None, "search", status="diverged")]
    rows += [row(64, None, "search", pruned=True)]
    result = StudyResult.from_table(rows)
    assert result.best_values("g") == {8: 0.1, 16: 0.25}
    assert result.best_values("g", mode="max") == {8: 0.4, 16: 0.3}
    assert StudyResult.from_table({**one, "mode": "max"} for one in rows).best_values("g") == {
        8: 0.4,
        16: 0.3,
    }
    assert result.share_reached("g") == pytest.approx({8: 2 / 3, 16: 1 / 2, 32: 1 / 2})


def timed():
    """A search trial of 2 s and reruns of 4 s each at every size, for two goals."""
    rows = []
    for goal in ("g", "h"):
        for one in table(goal=goal):
            seconds = 2.0 if one["phase"] == "search" else 4.0
            rows.append({**one, "seconds": seconds, "seed": round(one["steps"])})
    return rows


def test_the_cost_of_the_study_and_of_a_run_at_each_size():
    lines = StudyResult.from_table(timed()).summary().splitlines()
    at_64 = "        64 examples per step: 200 steps, 12800 examples, learning rate 0.64"
    assert f"{at_64}, 4 s a run" in lines
    # 7 sizes of 2 + 4 + 4 s, each run for both goals
    assert "cost: 21 runs took 70 s of training, one after the other" in lines
    assert not any("cost" in line for line in StudyResult.from_table(table()).summary().split("\n"))


def test_a_warning_has_the_time_that_its_fix_takes():
    rows = [one for one in timed() if one["goal"] == "g" and one["global_size"] != 512]
    rows = [one for one in rows if one["global_size"] != 256]
    (warning,) = StudyResult.from_table(rows).warnings
    assert warning.endswith("Add the sizes 256: about 3 runs, 10 s of training")


def test_times_are_written_but_no_part_of_the_table(tmp_path):
    result = StudyResult.from_table(timed())
    assert (
        result.table == StudyResult.from_table([{**one, "seconds": 9.0} for one in timed()]).table
    )
    result.to_csv(tmp_path / "a.csv")
    assert {one["seconds"] for one in read_table(tmp_path / "a.csv")} == {2.0, 4.0}
    again = StudyResult.from_table(read_table(tmp_path / "a.csv"))
    assert (again.seconds, again.summary()) == (result.seconds, result.summary())


def test_the_table_as_csv(tmp_path):
    rows = [row(8, 12.5, "search", param_momentum=0.9), row(8, None)]
    StudyResult.from_table(rows).to_csv(tmp_path / "a.csv")
    read = StudyResult.from_table(read_table(tmp_path / "a.csv"))
    assert [dict(one) for one in read.table] == [{"param_momentum": None, **one} for one in rows]


def test_the_figures_do_not_fit_again(tmp_path, monkeypatch):
    result = StudyResult.from_table(table())
    monkeypatch.setattr(CriticalBatchSize, "fit", lambda *_, **__: 1 / 0)
    assert len(result.figures(tmp_path / "figures")) == 5


def test_summary_and_command_report_a_fit_in_the_same_lines():
    result = StudyResult.from_table(table())
    _, *lines = describe(steps_curve(table())).splitlines()
    assert len(lines) == 4
    assert result.summary().splitlines()[1:5] == lines


def test_the_figures_of_a_result(tmp_path):
    found = StudyResult.from_table(table()).figures(tmp_path / "figures", kind="svg")
    assert [path.name for path in found] == [
        "steps_g.svg",
        "learning_rates_g.svg",
        "best_rate_g.svg",
        "fixed_budget_g.svg",
        "frontier.svg",
    ]
    assert all(path.stat().st_size > 1000 for path in found)
