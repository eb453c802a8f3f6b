"""What the quick form of every benchmark promises."""

from collections.abc import Sequence

from benchmarks.harness.spec import Benchmark

# Benchmarks whose own tests run the quick form; tests/benchmarks/test_quick.py runs the others.
IN_OWN_TESTS = {
    "calls_cost": "cost/test_calls_cost.py",
    "calls_memory": "cost/test_calls_cost.py",
    "curvature": "right/test_geometries.py",
    "gpu": "cost/test_gpu.py",
    "host_reads": "cost/test_overhead.py",
    "overhead_ddp": "cost/test_overhead_ddp.py",
}


def fills_the_tables(benchmark: Benchmark, rows: Sequence[tuple]) -> None:
    """The rows are those of the benchmark, and every table has lines for them."""
    assert rows and all(type(row) is benchmark.row for row in rows)
    assert {benchmark.key_of(row) for row in rows}
    for table in benchmark.tables.values():
        assert table(rows).strip()
