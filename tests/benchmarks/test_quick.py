"""Every benchmark's quick form runs and fills its tables."""

import dataclasses

import pytest

from benchmarks.harness.command import run
from benchmarks.index import BENCHMARKS


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_quick_form_fills_the_tables(name, capsys):
    benchmark = BENCHMARKS[name]
    if benchmark.missing():
        pytest.skip(benchmark.missing())
    rows = run(benchmark, benchmark.quick)
    assert rows and all(type(row) is benchmark.row for row in rows)
    assert {benchmark.key_of(row) for row in rows}
    for table in benchmark.tables.values():
        assert table(rows).strip()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_the_index_says_is_whole(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.question.endswith("?") and benchmark.about and benchmark.minutes > 0
    assert set(benchmark.key) <= set(benchmark.row._fields)
    for field in dataclasses.fields(benchmark.options):
        assert field.metadata["about"], f"{name}: {field.name} has no words for --help"
