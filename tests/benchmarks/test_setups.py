"""The script behind docs/setups.md: some of its rows, that it cannot be fooled, and that the page
holds all of them.
"""

import importlib.util
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def setups():
    spec = importlib.util.spec_from_file_location("setups", HOME / "benchmarks" / "setups.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(rows, *names):
    return [next(row for row in rows if row.name == name) for name in names]


def test_rows_are_measured_and_exact(setups):
    wanted = named(
        setups.SUPPORTED,
        "one device, one batch a step",
        "short last window",
        "16-mixed, overflow steps",
    )
    gan = named(setups.BY_HAND, "GAN, single examples")
    alone, short, overflow, generator, discriminator = setups.measure([*wanted, *gan])
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


def test_refusals_are_word_for_word(setups):
    lbfgs, synchronised, one, penalty = setups.measure(
        named(
            setups.REFUSED,
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


def test_a_row_that_is_wrong_is_not_written(setups):
    (plain,) = named(setups.SUPPORTED, "accumulation of 2")
    with pytest.raises(
        RuntimeError, match=r"accumulation of 2: Errors.* is further off than 1e-12"
    ):
        setups.measure([plain._replace(bound=1e-12)])
    other = plain._replace(plain=lambda: setups.Regression(lambda p: None, width=7))
    with pytest.raises(RuntimeError, match="size mismatch"):
        setups.measure([other])
    (refused,) = named(setups.REFUSED, "LBFGS")
    with pytest.raises(RuntimeError, match="LBFGS: not refused on all ranks alike"):
        setups.measure([refused._replace(module=setups.Regression)])
    (gan,) = named(setups.BY_HAND, "GAN, single examples")
    with pytest.raises(RuntimeError, match=r"GAN, single examples: Errors.* is further off"):
        setups.measure([gan._replace(bound=1e-12)])
    with pytest.raises(RuntimeError, match="accumulation of 2: refused with"):
        setups.measure([plain._replace(module=refused.module)])


def test_every_rule_has_a_row_and_the_page_every_row(setups):
    assert setups.unlisted() == set()
    page = (HOME / "docs" / "setups.md").read_text()
    for setup in (*setups.SUPPORTED, *setups.BY_HAND, *setups.REFUSED):
        assert f"| {setup.name}" in page, (
            f"run python benchmarks/setups.py: {setup.name} is not in docs/setups.md"
        )
