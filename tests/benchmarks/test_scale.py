"""The formula of docs/scale.md against a count in two real processes."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


def test_bytes_collectives_and_reads_follow_the_formula(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.main(["--ranks", "2", "--csv", str(tmp_path / "scale.csv")])
    logs = script.STEPS // script.LOG_EVERY
    for row in rows:
        keys = 4 if "per_layer" in row["settings"] else 1
        steps = script.LOG_EVERY // (5 if "every_n_steps" in row["settings"] else 1)
        assert (row["collectives"], row["host reads"]) == (logs, logs)
        assert row["bytes"] == logs * 8 * (row["ranks"] + 1 + steps * (1 + 4 * keys))
    assert len(rows) == 6 and (tmp_path / "scale.csv").read_text().count("\n") == 7
