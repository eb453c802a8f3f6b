import math

import numpy as np
import pytest

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import (
    CurvatureAverage,
    CurvatureProbe,
    contrasts,
    dl_max,
    eps_max,
    gradient_rules_error,
    moments_from_forms,
    relative_error,
)
from lightning_noise.core.estimate import estimate_from
from lightning_noise.core.moments import Moments

H, G, SIGMA = np.diag([1.0, 4.0]), np.ones(2), np.diag([2.0, 3.0])
C_BIG, C_CONTRAST = 1 / 64, 1 / 16


NOTHING = (None, 0.0, math.inf)


def draw_probe(rng, *, hessian=H, gradient=G, copies=1):
    """One probe as from 64 examples: a mean gradient, a contrast, and the squared norms of two
    halves.
    """
    hessian, gradient, root = (
        np.kron(np.eye(copies), hessian),
        np.tile(gradient, copies),
        np.kron(np.eye(copies), np.sqrt(SIGMA)),
    )
    halves = gradient + rng.standard_normal((2, 2 * copies)) @ root / math.sqrt(32)
    mean = halves.mean(axis=0)
    contrast = rng.standard_normal(2 * copies) @ root * math.sqrt(C_CONTRAST)
    along, across = mean @ hessian @ mean, contrast @ hessian @ contrast
    euclidean = Moments(float((halves**2).sum() / 2), float(mean @ mean), 1 / 32, C_BIG)
    return CurvatureProbe(
        moments_from_forms(along, C_BIG, [across], [C_CONTRAST]),
        euclidean,
        float(min(along, across) <= 0),
    )


def averaged(probes, decay=1.0):
    average = CurvatureAverage(decay)
    for probe in probes:
        average.update(probe)
    return average


def test_the_example_with_an_exact_answer():
    """H = diag(1, 4), G = (1, 1), Σ = diag(2, 3), fed with exactly what is expected of
    every form.
    """
    curved = moments_from_forms(
        G @ H @ G + C_BIG * np.trace(H @ SIGMA), C_BIG, [np.trace(H @ SIGMA) / 16], [C_CONTRAST]
    )
    flat = Moments(2 + 5 / 32, 2 + 5 / 64, 1 / 32, 1 / 64)
    assert flat.noise / flat.signal == pytest.approx(2.5, rel=1e-12)
    rng = np.random.default_rng(0)
    average = (
        averaged(  # an interval needs some spread, and an even one leaves the means where they are
            CurvatureProbe(m, flat, 0.0)
            for e in rng.uniform(0, 1e-6, 10)
            for m in (
                curved._replace(q_small=curved.q_small * (1 + e)),
                curved._replace(q_small=curved.q_small * (1 - e)),
            )
        )
    )
    e = average.estimate()
    assert (e.signal, e.noise, e.noise_scale) == pytest.approx((5.0, 14.0, 2.8), rel=1e-12)
    assert average.eps_max().value == pytest.approx(0.4, rel=1e-12)
    assert average.dl_max().value == pytest.approx(0.4, rel=1e-12)
    assert average.indefinite == 0.0


@pytest.mark.parametrize("groups", [2, 3, 4, 7])
def test_contrasts_are_orthogonal_and_see_no_gradient(groups):
    rows = np.array(contrasts(groups, 10))
    assert rows.shape == (groups - 1, groups)
    assert np.abs(rows.sum(axis=1)).max() < 1e-12
    product = rows @ rows.T
    assert np.abs(product - np.diag(np.diag(product))).max() < 1e-12


def test_unequal_contrasts_are_unbiased():
    """tr(HΣ) from several contrasts between groups of unequal sizes, and GᵀHG from their weighted
    mean.
    """
    rng, sizes = np.random.default_rng(1), np.array([4, 8, 20])
    weights, rows = sizes / sizes.sum(), np.array(contrasts(3, 2))
    c_big, kappa = float((weights**2 / sizes).sum()), (rows**2 / sizes).sum(axis=1)
    draws = []
    for _ in range(4000):
        groups = G + rng.standard_normal((3, 2)) @ np.sqrt(SIGMA) / np.sqrt(sizes)[:, None]
        mean, u = weights @ groups, rows @ groups
        m = moments_from_forms(mean @ H @ mean, c_big, [v @ H @ v for v in u], kappa)
        draws.append((m.signal, m.noise))
    draws = np.array(draws)
    error = draws.std(axis=0, ddof=1) / math.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - (5, 14)) < 4 * error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probes", "copies"), [(8, 5), (40, 1)], ids=["d_eff 6.6, 8 probes", "d_eff 1.3, 40 probes"]
)
def test_coverage_of_all_three_intervals(probes, copies):
    """Where it is not resolved an interval is open above, or absent, which is no miss: nothing is
    said.

    Not covered: 8 probes at d_eff 1.3, where the forms are as skew as the square of one Gaussian
    (89 %).
    """
    rng, runs, truth = np.random.default_rng(2), 2000, {"b": 2.8, "eps": 0.4, "dl": 0.4 * copies}
    hits = dict.fromkeys(truth, 0)
    for _ in range(runs):
        average = averaged(draw_probe(rng, copies=copies) for _ in range(probes))
        e = average.estimate()
        open_ended = (e.low or 0.0, e.high or math.inf)
        bounds = {
            "b": open_ended,
            "eps": (average.eps_max() or NOTHING)[1:],
            "dl": (average.dl_max() or NOTHING)[1:],
        }
        for name, (low, high) in bounds.items():
            hits[name] += low <= truth[name] <= high
    for count in hits.values():
        assert (
            0.92 - 4 * math.sqrt(0.05 * 0.95 / runs)
            < count / runs
            < 0.95 + 4 * math.sqrt(0.05 * 0.95 / runs) + 0.01
        )


def test_negative_curvature_along_the_gradient_is_not_defined():
    rng, saddle = np.random.default_rng(3), np.diag([1.0, -4.0])  # GᵀHG = −3, tr(HΣ) = −10
    average = averaged(draw_probe(rng, hessian=saddle) for _ in range(200))
    e = average.estimate()
    assert (e.noise_scale, e.high, e.resolved) == (None, None, False)
    assert average.eps_max() is None and average.dl_max() is None
    assert abs(e.signal + 3) < 1 and abs(e.noise + 10) < 4
    assert average.indefinite > 0.9


def test_negative_curvature_over_the_noise_only():
    rng, bent = (
        np.random.default_rng(4),
        np.diag([-2.0, 4.0]),
    )  # tr(HΣ) = 8, but along (1, 0) it bends down
    average = averaged(
        draw_probe(rng, hessian=bent, gradient=np.array([1.0, 0.0])) for _ in range(300)
    )
    e = average.estimate()
    assert e.noise > 0 > e.signal
    assert (e.noise_scale, e.low, e.high) == (None, None, None)


def test_undefined_where_the_gradient_is_not_resolved():
    rng = np.random.default_rng(5)
    average = averaged(draw_probe(rng, gradient=np.zeros(2)) for _ in range(40))
    assert (
        average.eps_max() is None
        and average.dl_max() is None
        and average.estimate().noise_scale is None
    )


def test_state_continues_to_the_last_bit():
    rng = np.random.default_rng(6)
    probes = [draw_probe(rng) for _ in range(30)]
    whole, first = averaged(probes, 0.99), averaged(probes[:17], 0.99)
    second = CurvatureAverage(0.99)
    second.load_state_dict(first.state_dict())
    for probe in probes[17:]:
        second.update(probe)
    assert second.state_dict() == whole.state_dict()
    assert second.eps_max() == whole.eps_max()


def test_which_error_rules():
    rng = np.random.default_rng(7)
    traces, gradients = RunningAverage(1.0), RunningAverage(1.0)
    for _ in range(50):
        traces.add(10 + 5 * rng.standard_normal(), 1 + 0.01 * rng.standard_normal(), 1.0)
        gradients.add(10 + 0.1 * rng.standard_normal(), 1 + 0.5 * rng.standard_normal(), 1.0)
    assert not gradient_rules_error(traces) and gradient_rules_error(gradients)
    # the spread of 50 values has a standard error of 10 %
    assert relative_error(traces) == pytest.approx(0.5 / math.sqrt(50), rel=0.3)
    empty = RunningAverage(1.0)
    assert relative_error(empty) is None and eps_max(empty) is None and dl_max(empty) is None


def test_relative_error_is_that_of_repetition():
    rng, values, predicted = np.random.default_rng(8), [], []
    for _ in range(300):
        average = averaged(draw_probe(rng) for _ in range(60)).average
        values.append(math.log(average.means()[0] / average.means()[1]))
        predicted.append(relative_error(average))
    assert np.mean(predicted) == pytest.approx(np.std(values), rel=4 / math.sqrt(2 * 300))


def test_a_probe_without_groups_or_with_overflow_is_not_usable():
    good = draw_probe(np.random.default_rng(9))
    assert good.is_usable
    assert not good._replace(euclidean=Moments(1.0, 1.0, 0.5, 0.5)).is_usable
    assert not good._replace(moments=Moments(math.inf, 1.0, 0.5, 0.25)).is_usable


def test_coverage_holds_for_the_plain_mean_too():
    """``estimate_from`` on the same average is what the class says."""
    average = averaged(draw_probe(np.random.default_rng(10)) for _ in range(20))
    assert average.estimate() == estimate_from(average.average)
