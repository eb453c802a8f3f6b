"""The benchmark of DDP runs, and its interval is the binomial one; nothing is asserted of times."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead_ddp.py"


def test_every_variant_runs_in_two_processes(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("overhead_ddp", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.main(["--tiny", "--rounds", "2", "--csv", str(tmp_path / "raw.csv")])
    assert list(found) == list(script.VARIANTS) and found["plain DDP"] == (1.0, 1.0, 1.0)
    assert len((tmp_path / "raw.csv").read_text().splitlines()) == 1 + 2 * 4
    rows = [
        (n, v, 1.0 + (n / 100 if v == "ranks" else 0)) for n in range(40) for v in script.VARIANTS
    ]
    assert script.ratio(rows, "ranks") == pytest.approx(
        (1.195, 1.13, 1.26)
    )  # the 14th and the 27th of 40
