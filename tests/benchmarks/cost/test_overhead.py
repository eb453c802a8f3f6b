"""The benchmark of the overhead: that it runs, what it hands out, and that reading happens in log
steps alone.
"""

import csv
import statistics

import pytest
from lightning.pytorch.callbacks import Callback

from benchmarks.cost import host_reads, overhead, overhead_memory
from benchmarks.harness.command import run as measured
from benchmarks.harness.lightning_runs import Variant, quiet_lightning
from benchmarks.harness.models import parameters_of
from benchmarks.harness.rounds import Rounds
from testing.quick_form import fills_the_tables

TINY = overhead.SIZES["tiny"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The rows, and the file of raw results."""
    raw = tmp_path_factory.mktemp("overhead") / "overhead.csv"
    return measured(overhead.BENCHMARK, Rounds(rounds=2, size="tiny"), raw), raw


@pytest.mark.slow
def test_every_variant_has_a_row_and_the_baseline_is_one(run):
    lines = [line.split(" | ") for line in overhead.table(run[0]).splitlines()[2:]]
    assert [line[0] for line in lines] == [f"| {variant.name}" for variant in overhead.VARIANTS]
    assert lines[0][-1] == "1.000 [1.000, 1.000] |"


@pytest.mark.slow
def test_the_raw_results_hold_every_variant_once_a_round(run):
    rows, raw = run
    lines = list(csv.DictReader(raw.read_text().splitlines()))
    assert sorted((int(line["round"]), line["variant"]) for line in lines) == sorted(
        (number, variant.name) for number in range(2) for variant in overhead.VARIANTS
    )
    assert [int(line["place"]) for line in lines] == [0, 1, 2] * 2
    for variant in overhead.VARIANTS:
        texts = [line["seconds"] for line in lines if line["variant"] == variant.name]
        own = [row.seconds for row in rows if row.variant == variant.name]
        assert statistics.median(map(float, texts)) == statistics.median(own)
    assert all(float(line["load"]) >= 0 for line in lines)


@pytest.mark.slow
def test_nothing_is_read_from_the_device_but_once_in_a_log_step():
    rows = measured(host_reads.BENCHMARK, host_reads.BENCHMARK.quick)
    fills_the_tables(host_reads.BENCHMARK, rows)
    assert [(row.quiet, row.log) for row in rows] == [(0, 1)] * 2


READS = {
    "item": lambda t: t.item(),
    "float": float,
    "bool": bool,
    "tolist": lambda t: t.tolist(),
    "cpu": lambda t: t.cpu(),
    "numpy": lambda t: t.numpy(),
    "nonzero": lambda t: t.nonzero(),
}


@pytest.fixture(scope="module")
def reads_without():
    return host_reads.reads_by_step(overhead.VARIANTS[0], TINY)


@pytest.mark.slow
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_counter_sees_a_read_of_any_kind(reads_without, read):
    class Reading(Callback):
        def on_after_backward(self, trainer, module):
            read(module.model.head.bias.grad.sum())

    with quiet_lightning():
        counted = host_reads.reads_by_step(Variant("reading", lambda: [Reading()]), TINY)
    found = host_reads.extra_reads("reading", counted, reads_without)
    assert (found.quiet, found.log) == (TINY.accumulation, TINY.accumulation)


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own():
    held = bytearray(2**30)  # what this process holds must not show in the child's peak
    held[:: 2**12] = b"x" * (2**30 // 2**12)
    options = overhead_memory.Options(size="tiny")
    peak = overhead_memory.peak_alone(overhead.VARIANTS[1].name, options, settled=True)
    assert 100 < peak < 1000


def test_the_whole_size_has_ten_million_parameters():
    assert parameters_of(overhead.SIZES["whole"].model()) >= 10_000_000
