"""The aims for the cost of measuring."""

import pytest

from benchmarks import aims
from benchmarks.harness.rounds import Ratio


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Ratio(1.00, 0.99, 1.01), "met"),
        (Ratio(1.00, 0.99, 1.02), "open"),
        (Ratio(1.02, 1.01, 1.03), "open"),
        (Ratio(1.03, 1.02, 1.04), "missed"),
        (aims.Ratio(float("nan"), float("nan"), float("nan")), "–"),
    ],
)
def test_an_aim_is_judged_by_the_whole_interval(found, state):
    assert aims.state(found, 1.01) == state


def test_every_aim_has_a_line_with_its_bound():
    lines = aims.table().splitlines()[2:]
    assert len(lines) == len(list(aims.aims()))
    for line, aim in zip(lines, aims.aims(), strict=True):
        cost, most, _, state, command = (cell.strip() for cell in line.strip("| ").split(" | "))
        assert (cost, float(most), command) == (aim.cost, aim.most, f"`{aim.benchmark.name}`")
        assert state in {"met", "open", "missed", "–"}
