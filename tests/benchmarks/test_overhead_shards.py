"""The benchmark of sharded runs; nothing is asserted of times."""

import pytest

from benchmarks import overhead_shards

pytestmark = pytest.mark.slow


def test_every_variant_runs_in_two_processes(tmp_path):
    raw = tmp_path / "raw.csv"
    found = overhead_shards.main(["--tiny", "--rounds", "2", "--csv", str(raw)])
    assert list(found) == list(overhead_shards.VARIANTS)
    assert found["FSDP2"] == found["FSDP"] == (1.0, 1.0, 1.0)
    assert len(raw.read_text().splitlines()) == 1 + 2 * 6


def test_ratios_are_to_the_same_sharding():
    seconds = {"FSDP2": 1.0, "FSDP": 2.0, "FSDP2, every step": 1.5, "FSDP, every step": 2.5}
    rows = [
        (number, variant, seconds.get(variant, 4.0))
        for number in range(8)
        for variant in overhead_shards.VARIANTS
    ]
    found = overhead_shards.ratios(rows)
    assert found["FSDP2, every step"] == (1.5, 1.5, 1.5)
    assert found["FSDP, every step"] == (1.25, 1.25, 1.25)
