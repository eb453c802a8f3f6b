"""The benchmark of the overhead: that it runs, what it hands out, and that reading happens in log
steps alone.
"""

import csv
import importlib.util
import statistics
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"


@pytest.fixture(scope="module")
def overhead() -> ModuleType:
    spec = importlib.util.spec_from_file_location("overhead", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make minutes of seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(overhead, tmp_path_factory):
    """The summary by variant, and the file of raw results."""
    raw = tmp_path_factory.mktemp("overhead") / "raw.csv"
    rows = overhead.main(["--tiny", "--rounds", "2", "--memory-runs", "0", "--output", str(raw)])
    return {row.variant: row for row in rows}, raw


@pytest.mark.slow
def test_every_variant_has_a_row_and_the_baseline_is_one(overhead, run):
    rows, _ = run
    assert list(rows) == [variant.name for variant in overhead.VARIANTS]
    base = rows[overhead.BASELINE]
    assert base.ratio == base.cpu_ratio == (1.0, 1.0, 1.0)
    for row in rows.values():
        assert row.ratio.low <= row.ratio.median <= row.ratio.high
        assert row.memory_ratio is row.settled_memory_ratio is None


@pytest.mark.slow
def test_the_raw_results_hold_every_variant_once_a_round(overhead, run):
    rows, raw = run
    lines = list(csv.DictReader(raw.read_text().splitlines()))
    assert sorted((int(line["round"]), line["variant"]) for line in lines) == sorted(
        (number, variant.name) for number in range(2) for variant in overhead.VARIANTS
    )
    assert [int(line["place"]) for line in lines] == [0, 1, 2] * 2
    for name, row in rows.items():
        seconds = [float(line["seconds"]) for line in lines if line["variant"] == name]
        assert statistics.median(seconds) == pytest.approx(row.seconds, abs=1e-6)


@pytest.mark.slow
def test_nothing_is_read_from_the_device_but_once_in_a_log_step(overhead, run):
    rows, _ = run
    measured = [row.reads for name, row in rows.items() if name != overhead.BASELINE]
    assert measured == [overhead.ExtraReads(quiet=0, log=1)] * 2


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
def reads_without(overhead):
    with overhead.quiet_lightning():
        return overhead.reads_by_step(overhead.VARIANTS[0], overhead.TINY)


@pytest.mark.slow
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_counter_sees_a_read_of_any_kind(overhead, reads_without, read):
    class Reading(overhead.Callback):
        def on_after_backward(self, trainer, module):
            read(module.head.bias.grad.sum())

    with overhead.quiet_lightning():
        counted = overhead.reads_by_step(
            overhead.Variant("reading", lambda: [Reading()]), overhead.TINY
        )
    assert overhead.extra_reads(counted, reads_without) == (
        overhead.TINY.accumulation,
        overhead.TINY.accumulation,
    )


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own(overhead):
    held = bytearray(2**30)  # what this process holds must not show in the child's peak
    held[:: 2**12] = b"x" * (2**30 // 2**12)
    peak = overhead.peak_mebibytes(overhead.VARIANTS[1], "tiny", threads=1, settled=True)
    assert 100 < peak < 1000


def test_the_interval_of_a_median_is_the_binomial_one(overhead):
    # For n = 40 the textbook gives the 14th and the 27th of the ordered values (confidence 0.9615).
    assert overhead.median_interval(list(range(1, 41))[::-1]) == (14, 27)
    assert overhead.median_interval([3.0, 1.0]) == (1.0, 3.0)


def test_ratios_are_taken_within_a_round(overhead):
    base, other = overhead.VARIANTS[:2]
    seconds = {
        (0, base.name): 1.0,
        (0, other.name): 1.5,
        (1, base.name): 10.0,
        (1, other.name): 11.0,
    }
    timings = [
        overhead.Timing(number, 0, name, value, 2 * value**2)
        for (number, name), value in seconds.items()
    ]
    assert overhead.paired_ratio(timings, other) == pytest.approx((1.3, 1.1, 1.5))
    assert overhead.paired_ratio(timings, other, "cpu_seconds") == pytest.approx((1.73, 1.21, 2.25))


def test_the_whole_size_has_ten_million_parameters(overhead):
    assert sum(p.numel() for p in overhead.Transformer(overhead.WHOLE).parameters()) >= 10_000_000
