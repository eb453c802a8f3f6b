"""Jackknife intervals and slopes, against closed forms."""

import math

import numpy as np
import pytest

from benchmarks.atlas.findings_statistics import NOTHING, Bounded, cell, jackknife, slopes
from lightning_noise.core.student_t import student_t_quantile


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.array([3.0, 5.0, 4.0, 8.0])
    found = jackknife(lambda kept: float(values[list(kept)].mean()), range(4))
    half = student_t_quantile(0.975, 3) * values.std(ddof=1) / 2
    assert found == pytest.approx((5.0, 5.0 - half, 5.0 + half))


def test_one_seed_has_no_interval_and_a_dash_in_tables():
    assert jackknife(lambda kept: 1.0, [0]) is NOTHING
    assert cell(NOTHING) == "–"


def test_cells_have_the_interval_where_there_is_one():
    assert cell(Bounded(1.0, 0.5, 1.5)) == "1.00 [0.50, 1.50]"
    assert cell(Bounded(1.0, math.nan, math.nan)) == "1.00"


def test_two_slopes_of_a_plane_are_found():
    x, y = [0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 1.0, 0.0]
    z = [2 * a - 3 * b + 5 for a, b in zip(x, y, strict=True)]
    assert slopes([x, y], z) == pytest.approx([2.0, -3.0])


@pytest.mark.parametrize("x", [[1.0, 1.0, 1.0], [1.0, 2.0, math.nan]], ids=["constant", "NaN"])
def test_columns_that_determine_no_slope_give_nan(x):
    assert math.isnan(slopes([x], [1.0, 2.0, 3.0])[0])


def test_fewer_points_than_unknowns_give_nan():
    assert math.isnan(slopes([[1.0]], [1.0])[0])
