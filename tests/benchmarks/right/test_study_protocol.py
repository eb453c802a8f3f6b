"""The benchmark of the protocol: its worlds, and what it finds without noise."""

import math

import pytest

from benchmarks.harness.rows import committed
from benchmarks.right import study_protocol
from benchmarks.right.study_protocol import PROTOCOLS, SIZES, World, least_median, simulated


def test_the_best_rate_of_a_smooth_edge_is_half_of_it():
    """There g is 1/4, and with 0.4 % of failures the median is hardly above 1."""
    assert least_median("smooth") == pytest.approx(4, rel=0.01)


def test_at_a_cliff_the_best_rate_is_the_highest_that_may_be_used():
    rate = (1 / 0.95 - 1) ** (1 / 8)  # 5 % fail
    assert least_median("cliff") == pytest.approx(1 / rate, rel=0.02)


def test_the_runs_of_a_world_depend_on_nothing_but_their_names():
    steps = World("cliff", 3).steps(32, 0.4, 1)
    assert World("cliff", 3).steps(32, 0.4, 1) == steps
    assert World("cliff", 3).steps(32, 0.4, 2) != steps
    assert World("cliff", 3).steps(32, 1.0, 1) == math.inf


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_noise_every_protocol_finds_the_best_rate(protocol, monkeypatch):
    monkeypatch.setattr(study_protocol, "NOISE", 1e-9)
    monkeypatch.setattr(study_protocol, "failing", lambda rate: 0.0)
    least_median.cache_clear()
    try:
        found = simulated("smooth", protocol, 0)
    finally:
        least_median.cache_clear()
    assert len(found.biases) == len(SIZES)
    assert all(0 <= bias < 0.06 for bias in found.biases)  # the rates are a factor 1.29 apart
    assert abs(found.b_error) < 0.06


def test_the_committed_rows_are_those_of_two_hundred_studies_or_more():
    rows = committed(study_protocol.BENCHMARK)
    assert [row.protocol for row in rows] == 2 * list(PROTOCOLS)
    assert all(row.studies >= 200 for row in rows)
