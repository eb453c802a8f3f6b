"""Tables of made-up rows whose answers are known."""

import math

import pytest
from matplotlib.figure import Figure

from benchmarks.atlas import atlas_noise, atlas_study, curves_report, figures, report
from benchmarks.atlas.cases import cases
from benchmarks.atlas.task import LATE
from benchmarks.atlas.tasks import TASKS
from lightning_noise.report.terms import REACHED, RERUN

NAMES = ("digits_mlp_sgd", "digits_mlp_momentum", "digits_cnn_momentum", "digits_resnet_momentum")
S_MIN = 20.0


def study_rows(name, b_crit):
    """Winners and two reruns at every size, without scatter."""
    task = TASKS[name]
    rows = []
    for goal in task.all_goals:
        for size in task.sizes:
            steps = S_MIN * (1 + b_crit / size)
            for phase, seed in (("search", 0), (RERUN, 1), (RERUN, 2)):
                row = dict.fromkeys(atlas_study.Row._fields)
                row |= {"task": name, "goal": goal.name, "global_size": size, "seed": seed}
                row |= {"trial": 0, "phase": phase, "learning_rate": 0.5, "status": REACHED}
                row |= {"steps": steps, "examples": steps * size, "best": phase == "search"}
                row |= {"mode": "min", "metric": goal.metric, "target": goal.target}
                row |= {"boundary": False, "pruned": False, "widened": False}
                row |= {"budget_steps": 10_000, "trained_steps": math.ceil(steps), "seconds": 1.0}
                rows.append(atlas_study.Row(**row))
    return rows


def noise_rows(name, b_crit, factor, size=64):
    """Two runs in which B_simple is ``factor`` times B_crit and B_noise twice that."""
    task = TASKS[name]
    steps = S_MIN * (1 + b_crit / size) / len(task.all_goals) / 10
    rows = []
    for seed in (1, 2):
        for goal in task.all_goals:
            for number in range(10):
                for geometry, scale in (("euclidean", factor * b_crit), ("hessian", 2 * b_crit)):
                    found = atlas_noise.Row(
                        task=name,
                        seed=seed,
                        global_size=size,
                        learning_rate=0.5,
                        geometry=geometry,
                        goal=goal.name,
                        bin=number,
                        status=REACHED,
                        crossed=1.0,
                        last_step=1,
                        steps=steps,
                        measured=4,
                        loss=1.0,
                        signal=4.0,
                        noise=4 * scale,
                        signal_sq=4.0,
                        noise_sq=4 * scale**2,
                        cross=4 * scale,
                    )
                    rows.append(found)
    return rows


@pytest.fixture(scope="module")
def found():
    """Four tasks whose B_simple is 1, 2, 1 and 2 times B_crit."""
    studied, measured = [], []
    for name, b_crit, factor in zip(NAMES, (30, 40, 80, 120), (1, 2, 1, 2), strict=True):
        studied += study_rows(name, b_crit)
        measured += noise_rows(name, b_crit, factor)
    return cases(measured, studied)


def test_a_case_has_the_critical_size_and_the_noise_scales(found):
    late = next(case for case in found if case.task == NAMES[1] and case.goal == LATE)
    assert late.fit.b_crit == pytest.approx(40, rel=1e-6) and late.is_bounded
    assert late.averages["euclidean", "progress"] == pytest.approx((80, 80, 80))
    assert late.averages["hessian", "steps"] == pytest.approx((80, 80, 80))


def test_scores_of_a_statistic_are_the_known_ones(found):
    points = report.points_of(found, LATE)
    median, direct, fitted, correlation = report.score_cells(points, report.USUAL)
    assert median == "1.5"
    assert direct.startswith(f"{math.exp(math.log(2) / 2**0.5):.3g} ")
    # each is judged by the mean of three others: twice off by 2^(2/3), twice by 2^(-2/3)
    assert fitted.startswith(f"{2 ** (2 / 3):.3g} ")
    assert correlation == "0.95"


def test_the_metric_of_sgd_is_the_euclidean_one(found):
    values = report.points_of(found, LATE)[0].values
    assert values["B_optimizer, at the goal"] == values["B_simple, at the goal"]


def test_a_statistic_without_scatter_is_chosen_on_the_other_tasks(found):
    points = report.points_of(found, LATE)
    errors = report.rules(points)["statistic and factor of other tasks"](points)
    assert errors == pytest.approx([0.0] * 4, abs=1e-6)  # B_noise is twice B_crit everywhere


def test_a_right_noise_scale_predicts_the_whole_curve(found):
    late = [case for case in found if case.goal == LATE]
    assert list(curves_report.curve_errors(late[0], "euclidean").values()) == pytest.approx(
        [0.0] * 7, abs=1e-6
    )
    wrong = curves_report.curve_errors(late[1], "euclidean")  # 80 where 40 is right
    # both pass through the run at 64: S(512)/S(64) is predicted with 80 and measured with 40
    predicted, true = (1 + 80 / 512) / (1 + 80 / 64), (1 + 40 / 512) / (1 + 40 / 64)
    assert wrong[512] == pytest.approx(math.log(predicted / true))


def test_the_figures_show_every_task(found, tmp_path):
    figures.draw(found, tmp_path / "atlas.png")
    assert (tmp_path / "atlas.png").stat().st_size > 20_000
    assert (tmp_path / "atlas_curves.png").stat().st_size > 20_000


def test_panels_without_a_task_are_hidden(found, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    late = [case for case in found if case.goal == LATE]
    figures.draw_curves(late[:3], tmp_path / "curves.png")
    assert [ax.axison for ax in drawn[0].axes] == [True, True, True, False]
