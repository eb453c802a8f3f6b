"""The scripts behind docs/geometries.md: their parts against known answers, and each run once on
very little.
"""

import numpy as np
import pytest

from benchmarks.cost import curvature
from benchmarks.harness.command import run
from benchmarks.right import curvature_precision, geometries
from benchmarks.right import large_batch_model as model
from testing.quick_form import fills_the_tables


def test_fits_of_the_large_batch_model_return_what_they_were_made_from():
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
def test_the_large_batch_model_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "SIZES", (4, 32, 256))
    monkeypatch.setattr(model, "RATES", np.geomspace(0.01, 0.3, 6))
    monkeypatch.setattr(model, "HELD", 60)
    rows = run(model.BENCHMARK, model.BENCHMARK.quick, tmp_path / "a.csv")
    best = [row.value for row in rows if row.quantity == "eps_opt"]
    assert min(best) > 0 and best[-1] > best[0]
    assert (tmp_path / "a.csv").read_text().count("\n") == 1 + 1 + 6 + 4 + 4 + 2
    model.draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1e4


@pytest.mark.slow
def test_noise_scales_along_a_run(tmp_path):
    options = geometries.Options(checkpoints=(3, 90), max_examples=700)
    rows = run(geometries.BENCHMARK, options, tmp_path / "a.csv")
    found = geometries.by_checkpoint(rows)
    assert [(c["hessian"].optimizer, c["hessian"].step) for c in found] == [
        ("SGD", 3),
        ("SGD", 90),
        ("Adam", 3),
        ("Adam", 90),
    ]
    for row in rows:
        if row.b_simple is not None:
            assert row.b_simple == pytest.approx(row.trace / row.grad_sq, rel=1e-3)
            assert row.low < row.b_simple < row.high
    sgd, adam = found[1], found[3]
    assert sgd["optimizer"] == sgd["euclidean"]._replace(geometry="optimizer")
    assert adam["optimizer"] != adam["euclidean"]._replace(geometry="optimizer")
    assert (tmp_path / "a.csv").read_text().count("\n") == 1 + 4 * 4
    geometries.draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1e4


@pytest.mark.slow
def test_examples_needed_follow_the_variance_of_gaussian_gradients():
    rng, b, n, d = np.random.default_rng(0), 64.0, 64, 40
    found = curvature_precision.need(b, d, n, 1, 3000, rng)
    # one contrast of halves; the mean, less its noise
    trace, gradient = 2 / d, 4 * b / (d * n) + 2 * b**2 / (d * n**2) * 2
    cross = -2 / d * b / n  # of both, as the noise of the mean is taken off by the same trace
    assert found.probes == pytest.approx((trace + gradient - 2 * cross) / 0.04, rel=0.1)
    needs = run(curvature_precision.BENCHMARK, curvature_precision.Options(draws=20))
    assert len(needs) == 8


@pytest.mark.slow
def test_the_cost_of_a_curvature_probe_is_measured_on_both_models():
    costs = run(curvature.BENCHMARK, curvature.BENCHMARK.quick)
    fills_the_tables(curvature.BENCHMARK, costs)
    assert len(costs) == 4 and all(c.plain_step > 0 for c in costs)
