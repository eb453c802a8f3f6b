"""The benchmark of sharded runs; nothing is asserted of times."""

import pytest

from benchmarks.cost import overhead_shards
from benchmarks.cost.overhead_shards import VARIANTS
from benchmarks.harness.command import run
from benchmarks.harness.rounds import Visit, visit


@pytest.mark.slow
def test_every_variant_runs_in_two_processes(tmp_path):
    raw = tmp_path / "raw.csv"
    options = overhead_shards.Options(rounds=2, size="tiny", at_once=2)
    rows = run(overhead_shards.BENCHMARK, options, raw)
    lines = [line.split(" | ") for line in overhead_shards.table(rows).splitlines()[2:]]
    assert [line[0] for line in lines] == [f"| {variant.name}" for variant in VARIANTS]
    assert [line[-1] for line in lines[::3]] == ["1.000 [1.000, 1.000] |"] * 2
    assert len(raw.read_text().splitlines()) == 1 + 2 * 6
    assert all(row.cpu_seconds > 0 for row in rows)


def test_ratios_are_to_the_same_sharding():
    seconds = {"FSDP2": 1.0, "FSDP": 2.0, "FSDP2, every step": 1.5, "FSDP, every step": 2.5}
    rows = []
    for number in range(8):
        for place, variant in enumerate(VARIANTS):
            one = seconds.get(variant.name, 4.0)
            rows.append(Visit(number, place, variant.name, one, one))
    lines = overhead_shards.table(rows).splitlines()
    assert lines[3].endswith("| 1.500 | 1.500 [1.500, 1.500] | 1.500 [1.500, 1.500] |")
    assert lines[6].endswith("| 2.500 | 1.250 [1.250, 1.250] | 1.250 [1.250, 1.250] |")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_timed_steps_begin_with_the_measured_one(variant):
    taken = [variant.steps_before]
    measured = []

    def step():
        measured.append(variant.every is not None and taken[0] % variant.every == 0)
        taken[0] += 1

    for _ in range(3):
        visit(step, variant.timed)
        timed = measured[-len(variant.timed) :]
        assert timed == [variant.every is not None, *[False] * (len(variant.timed) - 1)]
        assert sum(variant.timed) == 1.0
