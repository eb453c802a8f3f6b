"""The script behind docs/setups.md: some of its rows, that it cannot be fooled, and that the page
holds all of them.
"""

import pytest

from benchmarks.harness.rows import File
from benchmarks.right.setups import setups
from benchmarks.right.setups.refused import REFUSED, unlisted
from benchmarks.right.setups.supported import BY_HAND, SUPPORTED
from testing.toys import Regression

PATH = setups.BENCHMARK.path


def measure(wanted):
    return [row for rows in setups.rows_of(wanted) for row in rows]


def named(rows, *names):
    return [next(row for row in rows if row.name == name) for name in names]


def test_rows_are_measured_and_exact():
    wanted = named(
        SUPPORTED,
        "one device, one batch a step",
        "short last window",
        "16-mixed, overflow steps",
    )
    gan = named(BY_HAND, "GAN, single examples")
    alone, short, overflow, generator, discriminator = measure([*wanted, *gan])
    assert (alone.probe, alone.measured, alone.passed_over) == ("examples", 32, 0)
    assert (short.probe, short.measured, short.passed_over) == ("micro_batches", 10, 0)
    assert overflow.passed_over > 5 and overflow.measured + overflow.passed_over == 32
    said = f"{overflow.passed_over} `not_finite`: gradients were not finite (overflow)"
    assert (alone.skipped, overflow.skipped) == ("", said)
    assert f"| 32 | 0 | {alone.q_small:.1e}" in setups.supported_table([alone])
    assert f"| {overflow.measured} | {said} | " in setups.supported_table([overflow])
    for row, bound in (
        (alone, 1e-6),
        (short, 1e-6),
        (overflow, 4e-3),
        (generator, 1e-4),
        (discriminator, 1e-4),
    ):
        assert 0 < row.q_small < bound and 0 < row.q_big < bound


def test_refusals_are_word_for_word():
    lbfgs, synchronised, one, penalty = measure(
        named(
            REFUSED,
            "LBFGS",
            "SyncBatchNorm",
            "one batch a step of one example",
            "one batch a step, a weight penalty in the loss",
        )
    )
    codes = [row.code for row in (lbfgs, synchronised, one, penalty)]
    assert codes == ["LBFGS", "SyncBatchNorm", "one_example", "low_coverage"]
    assert "| `one_example` | `GradientNoiseScale`: two groups" in setups.refused_table([one])
    assert lbfgs.message.startswith(
        "`GradientNoiseScale`: torch.optim.LBFGS evaluates the loss several times"
    )
    assert "SyncBatchNorm (net.1)" in synchronised.message and "stand-in" in synchronised.told
    assert "the batch holds one example" in one.message


def test_a_row_that_is_wrong_is_not_written():
    (plain,) = named(SUPPORTED, "accumulation of 2")
    with pytest.raises(
        RuntimeError, match=r"accumulation of 2: Errors.* is further off than 1e-12"
    ):
        measure([plain._replace(bound=1e-12)])
    other = plain._replace(plain=lambda: Regression(lambda p: None, width=7))
    with pytest.raises(RuntimeError, match="size mismatch"):
        measure([other])
    (refused,) = named(REFUSED, "LBFGS")
    with pytest.raises(RuntimeError, match="LBFGS: not refused on all ranks alike"):
        measure([refused._replace(module=Regression)])
    (gan,) = named(BY_HAND, "GAN, single examples")
    with pytest.raises(RuntimeError, match=r"GAN, single examples: Errors.* is further off"):
        measure([gan._replace(bound=1e-12)])
    with pytest.raises(RuntimeError, match="accumulation of 2: refused with"):
        measure([plain._replace(module=refused.module)])


def test_every_rule_has_a_row_and_the_file_every_set_up():
    assert unlisted() == set()
    found = {row.name.partition(": `noise_scale")[0] for row in File(setups.BENCHMARK, PATH).rows}
    assert found == {setup.name for setup in setups.ALL}, "run python -m benchmarks run setups"
