"""Tables that several benchmarks share, beside tables by hand."""

from typing import NamedTuple

from benchmarks.harness.rounds import Visit, ratio_table
from benchmarks.harness.tables import noise_scale_cell, table_of


class Row(NamedTuple):
    name: str
    mean_time: float
    share: float


def test_a_table_has_all_columns_and_formats_numbers_by_name():
    table = table_of(mean_time=".1f", share=".0%")([Row("a", 2.25, 0.5), Row("b", 3.0, 1.0)])
    assert table.splitlines() == [
        "| name | mean time | share |",
        "|---|---|---|",
        "| a | 2.2 | 50% |",
        "| b | 3.0 | 100% |",
    ]


def test_ratios_are_to_the_baseline_of_each_variant():
    times = {"plain": 1.0, "measured": 1.5, "other": 2.0}
    rows = [Visit(n, 0, name, one, one) for n in range(6) for name, one in times.items()]
    baselines = {"plain": "plain", "measured": "plain", "other": "measured"}
    ratio = "1.333 [1.333, 1.333]"
    assert ratio_table(rows, baselines).splitlines()[-1] == (
        f"| other | 6 of 6 | 2.000 | {ratio} | {ratio} |"
    )


def test_a_noise_scale_is_shown_with_its_interval_or_the_reason_why_not():
    assert noise_scale_cell(12.345, 10.0, 20.0) == "12.3 [10, 20]"
    assert noise_scale_cell(None, 10.0, None) == "not resolved, at least 10"
    assert noise_scale_cell(None, None, None) == "not defined"
