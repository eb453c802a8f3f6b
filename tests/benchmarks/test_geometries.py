"""The scripts behind docs/geometries.md: their parts against known answers, and each run once on
very little.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fits_of_the_large_batch_model_return_what_they_were_made_from():
    model = script("large_batch_model")
    sizes = np.array(model.SIZES, dtype=float)
    assert model.fit(0.3 / (1 + 40 / sizes)) == pytest.approx((0.3, 40), rel=1e-6)
    curves = []
    for size in sizes:  # dL(ε) = ε|G|² − ε²/2 (GᵀHG + tr(HΣ)/B) with |G|² 2, GᵀHG 5, B_noise 20
        curve = 2 * model.RATES - model.RATES**2 / 2 * 5 * (1 + 20 / size)
        assert model.best_step(curve) == pytest.approx(
            (0.4 / (1 + 20 / size), 0.4 / (1 + 20 / size)), rel=0.03
        )
        curves.append(np.array([curve, curve]))
    fits = model.fit_both(curves)
    assert fits == pytest.approx((0.4, 20, 0.4, 20), rel=0.05)
    assert all(fit == fits for fit in model.bootstrap(curves, 3, np.random.default_rng(0)))


@pytest.mark.slow
def test_the_large_batch_model_runs(tmp_path):
    model = script("large_batch_model")
    model.SIZES, model.RATES, model.HELD = (4, 32, 256), np.geomspace(0.01, 0.3, 6), 60
    little = [
        "--checkpoints",
        "100",
        "--repetitions",
        "2",
        "--bootstrap",
        "3",
        "--max-examples",
        "700",
    ]
    (result,) = model.main(
        [*little, "--csv", str(tmp_path / "a.csv"), "--figure", str(tmp_path / "a.png")]
    )
    assert np.all(result.eps_opt > 0) and result.eps_opt[-1] > result.eps_opt[0]
    assert (tmp_path / "a.csv").read_text().count("\n") == 1 + 1 + 6 + 4 + 4 + 2 and (
        tmp_path / "a.png"
    ).stat().st_size > 1e4


@pytest.mark.slow
def test_noise_scales_along_a_run(tmp_path):
    little = ["--checkpoints", "3", "90", "--max-examples", "700"]
    found = script("geometries").main(
        [*little, "--csv", str(tmp_path / "a.csv"), "--figure", str(tmp_path / "a.png")]
    )
    assert [(c.optimizer, c.step) for c in found] == [
        ("SGD", 3),
        ("SGD", 90),
        ("Adam", 3),
        ("Adam", 90),
    ]
    sgd, adam = found[1].found, found[3].found
    assert sgd["optimizer"] == sgd["euclidean"] and adam["optimizer"] != adam["euclidean"]
    assert (tmp_path / "a.csv").read_text().count("\n") == 1 + 4 * 4 and (
        tmp_path / "a.png"
    ).stat().st_size > 1e4


@pytest.mark.slow
def test_examples_needed_follow_the_variance_of_gaussian_gradients(tmp_path):
    curvature = script("curvature")
    rng, b, n, d = np.random.default_rng(0), 64.0, 64, 40
    found = curvature.need(b, d, n, 1, 3000, rng)
    trace, gradient = (
        2 / d,
        4 * b / (d * n) + 2 * b**2 / (d * n**2) * 2,
    )  # one contrast of halves; the mean, less its noise
    cross = -2 / d * b / n  # of both, as the noise of the mean is taken off by the same trace
    assert found.probes == pytest.approx((trace + gradient - 2 * cross) / 0.04, rel=0.1)
    costs, needs = curvature.main(
        ["--pairs", "1", "--draws", "20", "--csv", str(tmp_path / "a.csv")]
    )
    assert len(costs) == 4 and len(needs) == 8 and all(c.plain_step > 0 for c in costs)
