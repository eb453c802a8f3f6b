"""The fit benchmark, run small: the intervals of B_crit hold, and the estimate is not biased."""

import csv
import math

import numpy as np
import pytest

from benchmarks.harness.command import main, run
from benchmarks.harness.spec import Simulated
from benchmarks.right import critical_fit

RUNS = 60


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("critical_fit") / "table.csv"
    return run(critical_fit.BENCHMARK, Simulated(runs=RUNS), path), path


@pytest.mark.parametrize(
    "index", range(len(critical_fit.REGIMES)), ids=lambda i: critical_fit.REGIMES[i].name
)
def test_interval_covers(table, index):
    row = table[0][index]
    assert row.regime == critical_fit.REGIMES[index].name
    assert row.coverage >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / RUNS)
    assert row.b_crit_05 < 1000 < row.b_crit_95
    assert row.refused < 0.1


def test_intervals_are_two_sided_where_the_sizes_reach(table):
    rows = {row.regime: row for row in table[0]}
    assert rows["14 sizes, 5 %"].bounded == 1
    assert rows["small sizes only, 5 %"].bounded == 0
    assert rows["large sizes only, 5 %"].bounded == 0


def test_csv_holds_the_rows(table):
    rows, path = table
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [r["regime"] for r in read] == [row.regime for row in rows]
    assert [float(r["coverage"]) for r in read] == pytest.approx(
        [row.coverage for row in rows], rel=1e-5
    )


def test_refused_studies_are_counted_and_left_out():
    regime = critical_fit.Regime(name="", exponents=(1, 2, 3, 4))
    row = critical_fit.evaluate(regime, 5, np.random.default_rng(0))
    assert row.refused == 1
    assert math.isnan(row.coverage)


def test_an_error_that_is_no_refusal_for_want_of_a_bend_is_not_swallowed():
    with pytest.raises(ValueError, match="four different sizes"):
        critical_fit.evaluate(
            critical_fit.Regime(name="", exponents=(1, 2, 3)), 1, np.random.default_rng(0)
        )


def test_runs_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        main(critical_fit.BENCHMARK, ["--quick", "--runs", "0"])
    assert "--runs must be at least 1, got 0" in capsys.readouterr().err
