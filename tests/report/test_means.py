"""Means of runs, and the joint region of a fit, beside other ways to compute them."""

import math

import pytest
from scipy.stats import f as fisher
from scipy.stats import sem
from scipy.stats import t as student_t

from lightning_noise.core.hyperbola import Profile
from lightning_noise.report.band import joint_limit
from lightning_noise.report.curves import steps_curve
from lightning_noise.report.means import means
from lightning_noise.report.runs import Run


def runs(size, *steps):
    found = []
    for one in steps:
        status = "incomplete" if one is None else "reached"
        found.append(Run("g", size, "rerun", status, one))
    return found


def test_a_mean_has_the_interval_of_students_t():
    steps = (90.0, 100.0, 130.0, 95.0)
    logs = [math.log(one) for one in steps]
    low, high = student_t.interval(0.9, 3, sum(logs) / 4, sem(logs))
    (mean,) = means(runs(8, *steps), 0.9)
    assert mean.steps == pytest.approx(math.exp(sum(logs) / 4))
    assert (mean.low, mean.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_a_single_run_and_a_median_have_none():
    found = means([*runs(8, 50.0), *runs(4, 100.0, None, 120.0), *runs(16, None, 3.0)], 0.95)
    assert [mean.global_size for mean in found] == [4, 8]
    assert [mean.steps for mean in found] == pytest.approx([120, 50])
    assert {mean[2:] for mean in found} == {(None, None)}


@pytest.mark.parametrize("sizes", [4, 5, 10])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_joint_limit_is_that_of_the_f_distribution(sizes, confidence):
    nu = sizes - 2
    limit = 1 + 2 / nu * fisher.ppf(confidence, 2, nu)
    assert joint_limit(3.0, sizes, confidence) == pytest.approx(3.0 * limit)


def table():
    """Steps about 100 (1 + 64/B) with a scatter of 20 %."""
    factors = {4: 1.2, 16: 0.8, 64: 1.2, 256: 0.9, 1024: 1.1}
    rows = []
    for size, factor in factors.items():
        row = {"goal": "g", "global_size": size, "phase": "rerun", "status": "reached"}
        rows.append({**row, "steps": 100 * (1 + 64 / size) * factor})
    return rows


def test_the_joint_band_holds_every_curve_of_the_joint_region():
    """A grid over both parameters; its curves fill the band and none leaves it."""
    curve = steps_curve(table())
    sizes = [row["global_size"] for row in table()]
    logs = [math.log(row["steps"]) for row in table()]
    profile = Profile(sizes, logs)
    best = profile.minimum()
    limit = joint_limit(profile.rss(best), 5, 0.95)
    highest = [0.0] * len(curve.sizes)
    for i in range(400):
        b_crit = math.exp(best - 3 + 6 * i / 399)
        rss = profile.rss(math.log(b_crit))
        if rss > limit:
            continue
        s_min = math.exp(profile.log_s_min(math.log(b_crit)) + math.sqrt((limit - rss) / 5))
        for k, size in enumerate(curve.sizes):
            highest[k] = max(highest[k], s_min * (1 + b_crit / size))
    assert curve.joint_high == pytest.approx(highest, rel=0.003)
    for k in range(len(curve.sizes)):
        assert curve.joint_low[k] < curve.low[k] < curve.high[k] < curve.joint_high[k]
