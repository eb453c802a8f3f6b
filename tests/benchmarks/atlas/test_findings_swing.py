"""The swing of a gradient: its autocorrelation, the fit, and a run whose ε·h is known."""

import numpy as np
import pytest
import torch

from benchmarks.atlas import findings_swing as swing
from benchmarks.gain.tasks import Task
from benchmarks.harness.rows import committed

CURVATURE, RATE, NOISE = 2.0, 0.15, 1.0  # ε·h = 0.3


def of_parabola(parameters, batch):
    """½hθ² with a gradient that is off by noise in every example; parameters (lanes, 1)."""
    theta = parameters[0]
    (noise,) = batch  # (lanes, examples)
    return (CURVATURE / 2 * theta.square() + theta * noise).mean(1)


PARABOLA = Task(
    name="parabola",
    optimizer="sgd",
    shapes=((1,),),
    draw=lambda generator, examples: (NOISE * torch.randn(examples, generator=generator),),
    loss=of_parabola,
    goal=-np.inf,
    most_examples=4 * 8_000,
)


@pytest.fixture(scope="module")
def found():
    return swing.products(PARABOLA, 4, RATE, range(6))[1000:].mean(0)


def rows_of(found):
    return [
        swing.Row("teacher", 4, RATE, seed, 8_000, *found[:, seed])
        for seed in range(found.shape[1])
    ]


def test_without_momentum_a_step_undoes_what_the_noise_of_the_last_one_did():
    """Lag k: −(1 − ε·h)^(k − 1)."""
    expected = [-(0.7 ** (lag - 1)) for lag in swing.LAGS]
    assert swing.autocorrelation(0.3, momentum=0.0) == pytest.approx(expected)


def test_a_run_on_a_parabola_has_the_autocorrelation_of_the_theory(found):
    """Six runs of 7000 steps; bounds of five standard errors over the runs."""
    ratios = found[2:] / found[1].mean()
    error = ratios.std(axis=1, ddof=1) / 6**0.5
    assert (np.abs(ratios.mean(1) - swing.autocorrelation(0.3)) < 5 * error).all()
    assert error.max() < 0.06


def test_the_fit_finds_the_rate_times_the_curvature(found):
    fit = swing.swing_of(rows_of(found))
    assert fit.value == pytest.approx(0.3, rel=0.05)
    assert fit.misfit < 0.05
    assert swing.b_stable(rows_of(found)) == pytest.approx(4 * 3.8 / 0.3, rel=0.05)


def test_the_trace_is_that_of_the_noise(found):
    assert found[0].mean() == pytest.approx(NOISE**2, rel=0.02)


def test_the_mean_is_the_root_of_both_bounds(found):
    rows = rows_of(found)
    assert swing.between(rows) ** 2 == pytest.approx(swing.b_simple(rows) * swing.b_stable(rows))


@pytest.fixture(scope="module")
def cases():
    return swing.by_case(committed(swing.BENCHMARK))


def test_one_number_explains_the_autocorrelation_in_all_cases_of_the_page(cases):
    misfits = [swing.swing_of(rows).misfit for rows in cases.values()]
    assert len(misfits) == 18
    assert round(min(misfits), 2) == 0.02
    assert round(max(misfits), 2) == 0.2


def test_b_crit_lies_between_both_bounds_on_the_five_tasks(cases):
    for (task, _), rows in cases.items():
        if task == swing.HELD_OUT:
            continue
        crit = swing.b_crit(task).b_crit
        assert swing.bounded(rows, swing.b_simple).low < crit
        assert crit < swing.bounded(rows, swing.b_stable).high


def test_the_geometric_mean_fails_on_the_task_that_was_set_aside(cases):
    crit = swing.b_crit(swing.HELD_OUT).b_crit
    for size in (4, 16, 64):
        rows = cases[swing.HELD_OUT, size]
        assert 1.1 < swing.b_simple(rows) / crit < 1.3
        assert 3 < swing.between(rows) / crit < 3.6
