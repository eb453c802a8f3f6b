"""The numbers behind the figures of steps and examples."""

import math

import pytest
from scipy.stats import t as student_t

from lightning_noise import CriticalBatchSize
from lightning_noise.report.curves import frontier, steps_curve
from lightning_noise.report.runs import runs_of, runs_that_count, steps_by_size
from testing.synthetic_studies import B_CRIT, S_MIN, SIZES, study


def run(size, steps, **more):
    return {"goal": "g", "global_size": size, "seed": 0, "phase": "rerun", **more} | {
        "steps": steps,
        "status": "incomplete" if steps is None else "reached",
    }


def test_the_law_is_found_and_the_curve_runs_through_it():
    curve = steps_curve(study())
    fit = curve.fit
    assert fit.low < B_CRIT < fit.high
    assert abs(fit.s_min / S_MIN - 1) < 0.1
    assert curve.steps == pytest.approx([fit.steps(size) for size in curve.sizes])
    assert curve.perfect == pytest.approx([fit.e_min / size for size in curve.sizes])
    band = zip(curve.low, curve.steps, curve.high, strict=True)
    assert all(low < middle < high for low, middle, high in band)
    assert curve.sizes[0] < min(SIZES) and curve.sizes[-1] > max(SIZES)
    assert curve.regimes[:2] == pytest.approx((fit.b_crit / 9.5, fit.b_crit * 9.5))


def test_the_band_is_the_envelope_of_the_interval():
    rows = [
        run(size, 100 * (1 + 64 / size) * factor)
        for size, factor in zip((4, 16, 64, 256, 1024), (1.1, 0.9, 1.1, 1, 1), strict=True)
    ]
    narrow, wide = (steps_curve(rows, confidence=confidence) for confidence in (0.5, 0.95))
    assert (narrow.confidence, wide.confidence) == (0.5, 0.95)
    for i in range(0, len(wide.sizes), 8):
        assert wide.low[i] < 1.001 * narrow.low[i]  # the curves are sampled
        assert narrow.high[i] < 1.001 * wide.high[i]
        assert narrow.low[i] < narrow.steps[i] < narrow.high[i]
    last = math.log(wide.low[-1] / wide.low[-9]) / math.log(wide.sizes[-1] / wide.sizes[-9])
    assert -1 < last < 0


def test_the_band_is_the_interval_of_the_steps_everywhere():
    """Against the least RSS of all curves through a given number of steps at a size."""
    sizes, factors = (4, 16, 64, 256, 1024), (1.3, 0.7, 1.3, 0.9, 1.1)
    steps = [100 * (1 + 64 / size) * factor for size, factor in zip(sizes, factors, strict=True)]
    curve = steps_curve([run(size, count) for size, count in zip(sizes, steps, strict=True)])

    def rss(b_crit, size, count):
        s_min = count / (1 + b_crit / size)
        curve = [s_min * (1 + b_crit / one) for one in sizes]
        return sum(math.log(a / b) ** 2 for a, b in zip(curve, steps, strict=True))

    limit = 5 * curve.fit.residual**2 * (1 + student_t.ppf(0.975, 3) ** 2 / 3)
    for i in range(0, len(curve.sizes), 16):
        for end in (curve.low[i], curve.high[i]):
            trials = (math.exp(k / 50) for k in range(-250, 600))
            least = min(rss(b_crit, curve.sizes[i], end) for b_crit in trials)
            assert least == pytest.approx(limit, rel=0.02)


def test_where_a_straight_line_is_not_excluded_the_band_reaches_it():
    factors = (1.3, 0.7, 1.2, 0.8, 1.3, 0.75, 1.2)
    sizes = (8, 16, 32, 64, 128, 256, 512)
    steep = steps_curve(
        [run(size, 1e3 * (1 + 1e3 / size) * f) for size, f in zip(sizes, factors, strict=True)],
    )
    assert steep.fit.high is None
    assert math.log(steep.low[-1] / steep.low[-2]) / math.log(
        steep.sizes[-1] / steep.sizes[-2],
    ) == pytest.approx(-1, abs=0.03)
    scatter = (0.8, 1.3, 0.8, 1.2, 0.8, 1.2, 1)
    flat = steps_curve(
        [run(size, 1e3 * (1 + 8 / size) * f) for size, f in zip(sizes, scatter, strict=True)],
    )
    assert flat.fit.low is None
    assert math.log(flat.low[0] / flat.low[1]) == pytest.approx(0, abs=0.01)


def test_reruns_count_alone_where_there_are_any():
    rows = study()
    counted = runs_that_count(runs_of(rows))
    assert {run.phase for run in counted} == {"rerun"}
    assert [run.global_size for run in counted] == sorted(run.global_size for run in counted)


def test_without_reruns_the_quickest_trial_of_a_size_counts():
    rows = [row for row in study() if row["phase"] == "search"]
    counted = runs_that_count(runs_of(rows))
    assert [run.global_size for run in counted] == list(SIZES)
    assert all(run.best for run in counted)
    assert steps_curve(rows).fit is not None


def test_runs_that_miss_the_goal_are_not_left_out_in_silence():
    rows = [
        run(8, 100),
        run(8, 400),
        run(16, 50),
        run(16, 70),
        run(16, None),
        run(32, 30),
        run(32, None),
        run(64, None),
    ]
    assert steps_by_size(runs_of(rows)) == {8: pytest.approx(200), 16: 70}
    curve = steps_curve([*rows, *(run(size, 10 + 600 / size) for size in (4, 128, 512))])
    assert curve.missed == {16: (1, 3), 32: (1, 2), 64: (1, 1)}
    assert len(curve.points) == 8


def test_a_size_without_a_winner_is_told_by_its_search():
    rows = [row for row in study() if row["global_size"] != 512 or row["phase"] == "search"]
    # its winner was not rerun, which is no failure to reach the goal
    assert 512 not in steps_curve(rows).missed
    for row in rows:
        if row["global_size"] == 512:
            row.update(status="incomplete", steps=None, best=False)
    curve = steps_curve(rows)
    assert curve.missed == {8: (1, 3), 512: (20, 20)}
    assert 512 not in {point.global_size for point in curve.points}


def test_a_refused_fit_leaves_the_points_and_the_reason():
    curve = steps_curve([run(8, 100), run(16, 50)])
    assert curve.fit is None and curve.sizes == () and curve.regimes is None
    assert curve.refusal.startswith(
        "batch_sizes must hold at least four different sizes, got 2 (8, 16).",
    )
    assert [(p.global_size, p.steps) for p in curve.points] == [(8, 100), (16, 50)]
    assert frontier(curve).points == ((100, 800), (50, 800))


def test_nothing_reached_is_refused():
    with pytest.raises(ValueError, match="no run reached the goal 'g'"):
        steps_curve([run(8, None)])


def test_the_frontier_is_the_hyperbola():
    found = frontier(steps_curve(study()))
    fit = found.fit
    assert isinstance(fit, CriticalBatchSize)
    for steps, examples in zip(found.steps, found.examples, strict=True):
        assert (steps / fit.s_min - 1) * (examples / fit.e_min - 1) == pytest.approx(1)
    for (steps, examples), size in zip(found.points, found.sizes, strict=True):
        assert examples == steps * size
