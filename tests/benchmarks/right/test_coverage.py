"""The coverage benchmark, run small: the intervals hold, and what is not measured is not counted as
held.
"""

import csv
import math

import numpy as np
import pytest

from benchmarks.harness.command import main, run
from benchmarks.harness.spec import Simulated
from benchmarks.right import coverage

RUNS = 200


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("coverage") / "table.csv"
    return run(coverage.BENCHMARK, Simulated(runs=RUNS), path), path


def slack(share: float, row) -> float:
    """Four binomial standard errors of a true share, with as many runs as the row measured."""
    return 4 * math.sqrt(share * (1 - share) / (row.measured * row.runs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "index", range(len(coverage.REGIMES)), ids=lambda i: f"{coverage.REGIMES[i].name}, {i}"
)
def test_interval_covers(table, index):
    row = table[0][index]
    assert row.regime == coverage.REGIMES[index].name
    assert 0.92 - slack(0.92, row) <= row.coverage <= 0.98 + slack(0.98, row)
    assert 0.92 - slack(0.92, row) <= row.strict <= row.coverage
    assert row.low_holds >= 0.975 - slack(0.975, row)
    assert row.measured >= 0.8


@pytest.mark.slow
def test_regime_beyond_the_method_stays_in_the_table_and_errs_on_the_low_side(table):
    row = table[0][-1]
    assert row.regime == coverage.BEYOND[0].name
    too_high, too_low = 1 - row.low_holds, row.low_holds - row.coverage
    assert too_low - too_high > 4 * math.sqrt(
        (too_low + too_high) / row.runs
    )  # s.e. of a difference of two counts
    assert row.low_holds >= 0.975 - slack(0.975, row)


@pytest.mark.slow
def test_csv_holds_the_rows(table):
    rows, path = table
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [r["regime"] for r in read] == [row.regime for row in rows]
    assert [float(r["coverage"]) for r in read] == pytest.approx(
        [row.coverage for row in rows], rel=1e-5
    )


def test_a_run_without_an_interval_is_neither_held_nor_missed():
    regime = coverage.Regime(name="too short", noise_scale=64, phases=((4, (8, 8)),), directions=20)
    row = coverage.evaluate(regime, 10, np.random.default_rng(0))
    assert (row.measured, row.resolved) == (0, 0)
    assert math.isnan(row.coverage)
    assert "| – | – | – | – | 0.0 |" in coverage.table([row])


@pytest.mark.parametrize("log_scale", [0.0, 0.5])
def test_drawn_groups_have_the_stated_noise_scale(log_scale):
    regime = coverage.Regime(
        name="", noise_scale=100, phases=((5, (16, 16)),), directions=50, log_scale=log_scale
    )
    gradient = coverage.draw_group(regime, 16, 4000, np.random.default_rng(0))
    squares = (gradient**2).sum(axis=1)
    assert abs(squares.mean() - (1 + 100 / 16)) < 4 * squares.std() / len(squares) ** 0.5


def test_runs_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        main(coverage.BENCHMARK, ["--quick", "--runs", "0"])
    assert "--runs must be at least 1, got 0" in capsys.readouterr().err
