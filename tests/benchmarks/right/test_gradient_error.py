"""The gradient-error benchmark, run small: the law B_simple/B, the package's reading of it, and the
picture.
"""

import csv
import struct

import pytest

from benchmarks.harness.command import main, run
from benchmarks.right import gradient_error


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("gradient_error")
    table, figure = folder / "table.csv", folder / "figure.png"
    rows = run(gradient_error.BENCHMARK, gradient_error.Options(examples=2**17), table)
    gradient_error.draw(rows, figure)
    return rows, table, figure


def test_known_noise_scale():
    assert gradient_error.Regression().noise_scale == 41
    assert gradient_error.Regression(d=10, label_variance=0).noise_scale == 11


def test_error_of_a_batch_gradient_is_b_simple_over_b(result):
    rows = result[0]
    assert [row.global_size for row in rows] == [2**k for k in range(13)]
    for row in rows:
        assert row.exact == pytest.approx(41 / row.global_size, rel=1e-5)  # six digits are kept
        assert abs(row.error - row.exact) < 4 * row.standard_error, row


def test_the_monitor_reads_the_same_noise_scale_from_micro_batches(result):
    for row in result[0]:
        one_error = (
            row.predicted_high - row.predicted_low
        ) / 4  # a 95 % interval is about two standard errors to each side
        assert abs(row.predicted - row.exact) < 4 * one_error


def test_csv_holds_the_rows(result):
    rows, table, _ = result
    with table.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [int(r["global_size"]) for r in read] == [row.global_size for row in rows]
    assert [float(r["error"]) for r in read] == pytest.approx([row.error for row in rows], rel=1e-5)


def test_figure_is_a_png_of_900_by_600(result):
    head = result[2].read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (900, 600)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="not resolved after 2 steps"):
        run(gradient_error.BENCHMARK, gradient_error.Options(steps=2))


def test_too_few_examples_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(gradient_error.BENCHMARK, ["--quick", "--examples", "100"])
    assert "--examples must be at least 8192" in capsys.readouterr().err
