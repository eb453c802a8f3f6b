"""The policy benchmark, run small: a right size is kept, a wrong one is found, and the moments
drawn are what they claim.
"""

import csv

import numpy as np
import pytest

from benchmarks.harness.command import main, run
from benchmarks.harness.spec import Simulated
from benchmarks.right import policy

RUNS = 8


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "table.csv"
    return run(policy.BENCHMARK, Simulated(runs=RUNS), path), path


def test_a_right_size_is_kept_and_a_wrong_one_found(table):
    rows, path = table
    steady = [r for r in rows if r.start == 1 and r.growth == 1]
    cautious = [r for r in steady if r.policy.startswith("TrackNoiseScale")]
    alone = [r for r in steady if r.policy == "95 % bound alone"]
    # four standard errors above a true rate of 6 %; the bound alone makes far more false changes
    assert (
        sum(r.changed for r in cautious) / len(cautious)
        <= 0.06 + 4 * (0.06 * 0.94 / (RUNS * len(cautious))) ** 0.5
    )
    assert sum(r.changed for r in alone) / len(alone) >= 0.2
    assert all(r.arrived == 1 and 0.6 < r.end < 1.6 for r in rows if r.start != 1 and r.growth == 1)
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [(r["policy"], float(r["changed"])) for r in read] == [
        (r.policy, pytest.approx(r.changed)) for r in rows
    ]


@pytest.mark.parametrize("groups", [0, 2])
def test_drawn_moments_have_the_stated_noise_scale(groups):
    regime = policy.Regime(start=1, policy="TrackNoiseScale", groups=groups, directions=50)
    rng = np.random.default_rng(1)
    moments = [m for _ in range(60) for m in policy.epoch(rng, regime, 100.0, 64)]
    for values, truth in (([m.noise for m in moments], 100.0), ([m.signal for m in moments], 1.0)):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / len(values) ** 0.5


def test_runs_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        main(policy.BENCHMARK, ["--quick", "--runs", "0"])
    assert "--runs must be at least 1, got 0" in capsys.readouterr().err
