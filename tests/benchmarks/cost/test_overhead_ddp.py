"""The benchmark of DDP runs, and its interval is the binomial one; nothing is asserted of times."""

import pytest

from benchmarks.cost import overhead_ddp
from benchmarks.harness.command import run
from benchmarks.harness.rounds import Visit, compare
from testing.quick_form import fills_the_tables

pytestmark = pytest.mark.slow


def test_every_variant_runs_in_two_processes(tmp_path):
    rows = run(overhead_ddp.BENCHMARK, overhead_ddp.BENCHMARK.quick, tmp_path / "raw.csv")
    fills_the_tables(overhead_ddp.BENCHMARK, rows)
    lines = overhead_ddp.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {v}" for v in overhead_ddp.VARIANTS]
    assert lines[2].endswith("| 1.000 [1.000, 1.000] |")
    assert len((tmp_path / "raw.csv").read_text().splitlines()) == 1 + 2 * 4
    for number in range(2):
        here = [row for row in rows if row.round == number]
        assert sorted(row.variant for row in here) == sorted(overhead_ddp.VARIANTS)
        assert [row.place for row in here] == [0, 1, 2, 3]
        assert all(row.seconds > 0 and row.cpu_seconds > 0 for row in here)


def test_without_processor_time_no_round_is_left_out():
    rows = [
        Visit(n, 0, v, 1.0 + (n / 100 if v == "ranks" else 0))
        for n in range(40)
        for v in overhead_ddp.VARIANTS
    ]
    found = compare(rows, "ranks", "plain DDP")
    assert found.kept == 40
    assert found.ratio == pytest.approx((1.195, 1.13, 1.26))  # the 14th and the 27th of 40
