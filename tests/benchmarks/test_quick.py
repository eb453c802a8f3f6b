"""Every benchmark's quick form runs and fills its tables."""

import dataclasses

import pytest

from benchmarks.harness.command import run
from benchmarks.index import BENCHMARKS
from testing.launch import ROOT
from testing.quick_form import IN_OWN_TESTS, fills_the_tables


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in IN_OWN_TESTS])
def test_the_quick_form_fills_the_tables(name, capsys):
    benchmark = BENCHMARKS[name]
    if benchmark.missing():
        pytest.skip(benchmark.missing())
    fills_the_tables(benchmark, run(benchmark, benchmark.quick))


@pytest.mark.parametrize("name", IN_OWN_TESTS)
def test_the_quick_form_of_the_others_runs_in_their_own_tests(name):
    text = (ROOT / "tests" / "benchmarks" / IN_OWN_TESTS[name]).read_text()
    assert f"fills_the_tables({name}.BENCHMARK, " in text
    assert f"{name}.BENCHMARK.quick" in text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_the_index_says_is_whole(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.question.endswith("?") and benchmark.about and benchmark.minutes > 0
    assert set(benchmark.key) <= set(benchmark.row._fields)
    for field in dataclasses.fields(benchmark.options):
        assert field.metadata["about"], f"{name}: {field.name} has no words for --help"
