"""The formula of docs/scale.md against a count in two real processes."""

import pytest

from benchmarks.cost import scale
from benchmarks.harness.command import run

pytestmark = pytest.mark.slow


def test_bytes_collectives_and_reads_follow_the_formula(tmp_path):
    rows = run(scale.BENCHMARK, scale.Options(ranks=(2,)), tmp_path / "scale.csv")
    logs = scale.STEPS // scale.LOG_EVERY
    for row in rows:
        keys = 4 if "per_layer" in row.settings else 1
        steps = scale.LOG_EVERY // (5 if "every_n_steps" in row.settings else 1)
        assert (row.collectives, row.host_reads) == (logs, logs)
        assert row.bytes == logs * 8 * (row.ranks + 1 + steps * (1 + 4 * keys))
        assert scale.formula(row) == row.bytes / logs
    assert len(rows) == 6 and (tmp_path / "scale.csv").read_text().count("\n") == 7
