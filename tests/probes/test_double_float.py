"""Pairs of fp32 numbers against exact fractions, and against fp64."""

from fractions import Fraction

import pytest
import torch

from lightning_noise.probes import rows
from lightning_noise.probes.double_float import (
    DoubleFloat,
    has_float64,
    in_float64,
    read,
    two_sum,
    wide_sum,
    wide_zeros,
    widest,
)
from lightning_noise.probes.norms import squared_norm
from lightning_noise.probes.preconditioner import bias_correction
from testing.without_float64 import Float64Error, Float64Forbidden, cpu_without_float64

CPU = torch.device("cpu")
DIGITS = 2.0**-44  # relative error of an operation: 48 bits are held, some are spent


def numbers(count: int = 500, seed: int = 0) -> torch.Tensor:
    """fp32 numbers of all sizes that squares may have."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** torch.empty(count).uniform_(-8, 8, generator=generator)
    return torch.randn(count, generator=generator) * sizes


def exact(pairs: DoubleFloat) -> list[Fraction]:
    both = zip(pairs.high.flatten().tolist(), pairs.low.flatten().tolist(), strict=True)
    return [Fraction(high) + Fraction(low) for high, low in both]


def pairs_of(values: torch.Tensor) -> DoubleFloat:
    """fp64 numbers as pairs."""
    high = values.float()
    return DoubleFloat(high, (values - high.double()).float())


def close(found: DoubleFloat, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(
        found.high.double() + found.low.double(), wanted, rtol=DIGITS, atol=0
    )


def test_a_sum_of_two_is_exact():
    a, b = numbers(), numbers(seed=1)
    total = two_sum(a, b)
    wanted = [Fraction(x) + Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert exact(DoubleFloat(*total)) == wanted
    assert torch.equal(total.high, a + b) and bool(total.low.any())


def test_squares_are_exact():
    x = numbers()
    assert exact(DoubleFloat.squares(x)) == [Fraction(value) ** 2 for value in x.tolist()]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_a_sum_keeps_what_fp32_drops(count):
    """10⁸ and many ones: fp32 adds none of them."""
    x = torch.cat([torch.tensor([1e4]), torch.ones(count - 1)])
    found = DoubleFloat.squares(x).sum()
    assert found.high.shape == () and float(found) == 1e8 + count - 1


@pytest.mark.parametrize("factor", [3.0, 1 / 3, 0.1, -7e5, 1 / 65536, 2.0**-30])
def test_products_and_quotients_by_numbers(factor):
    values = numbers().double() * (1 + 1e-9)
    pairs = pairs_of(values)
    held = pairs.high.double() + pairs.low.double()
    close(pairs * factor, held * factor)
    close(pairs / factor, held / factor)


@pytest.mark.parametrize("divisor", [65536.0, 3.0, 1.1e5])
def test_quotients_by_a_tensor(divisor):
    pairs = pairs_of(numbers().double() * (1 + 1e-9))
    single = torch.tensor(divisor)
    close(pairs.over(single), (pairs.high.double() + pairs.low.double()) / single.double())


def test_sums_of_pairs():
    a, b = pairs_of(numbers().double().abs()), pairs_of(numbers(seed=1).double().abs())
    wanted = (a.high.double() + a.low.double()) + (b.high.double() + b.low.double())
    close(a + b, wanted)
    close(wide_sum([a, b]), wanted)


def row_of(squares: torch.Tensor, big: torch.Tensor, *, in_pairs: bool):
    """All that happens to a row on its way, in fp64 or in pairs."""
    with torch.no_grad():
        q_small, q_big = (pairs_of(squares), pairs_of(big)) if in_pairs else (squares, big)
        rows_of_passes = []
        for weight in (1 / 3, 0.25):
            row = rows.step_row(q_small / weight, q_big / weight**2, 1 / 7, 1 / 21)
            row[1] = 0
            row = rows.unscaled(row, torch.tensor(1024.0 * 3))
            rows_of_passes.append(rows.replicated(row, 3))
        return rows.combined(rows_of_passes)


def test_rows_are_those_of_fp64():
    squares, big = numbers(6).double().square(), numbers(6, seed=1).double().square()
    wanted = row_of(squares, big, in_pairs=False)
    with cpu_without_float64():
        found = row_of(squares, big, in_pairs=True)
    assert isinstance(found, DoubleFloat) and wanted[1].eq(0).all() and wanted[2].all()
    (flat,) = in_float64([found.flatten()])
    torch.testing.assert_close(flat.view(6, 4), wanted, rtol=1e-12, atol=0)


def test_an_unusable_row_spoils_the_sum():
    with cpu_without_float64():
        row = rows.unusable(2, CPU) + DoubleFloat.zeros((2, 4), CPU)
    (flat,) = in_float64([row.flatten()])
    assert flat.shape == (8,) and not flat.isfinite().any()


def test_a_square_that_overflows_is_not_finite():
    with cpu_without_float64():
        assert not torch.tensor(float(squared_norm(torch.full((3,), 1e30)))).isfinite()


def test_numbers_are_read_in_order():
    pairs = [pairs_of(torch.tensor(value, dtype=torch.float64)) for value in (0.1, 3.7)]
    assert read(pairs) == pytest.approx([0.1, 3.7], rel=1e-14)
    assert read([torch.tensor(0.5), torch.tensor(2.0)]) == [0.5, 2.0]
    one_and_three = in_float64([pairs[0][None], DoubleFloat.zeros((3,), CPU)])
    assert [len(part) for part in one_and_three] == [1, 3]
    host = torch.tensor([1.0], dtype=torch.float64)
    assert [float(part) for part in in_float64([pairs[0][None], host])] == pytest.approx([0.1, 1])


def test_what_a_device_has():
    assert has_float64(CPU) and not has_float64(torch.device("mps"))
    assert widest(CPU) == torch.float64 and widest(torch.device("mps")) == torch.float32
    assert wide_zeros((2,), CPU).dtype == torch.float64
    with cpu_without_float64():
        assert isinstance(wide_zeros((2,), CPU), DoubleFloat)
    assert has_float64(CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_two_million_numbers(dtype):
    """Chunks in fp32, their squares in pairs: no float64 is met, and a flat sum is far worse."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_000_003, generator=generator).add_(3.0).to(dtype)
    truth = float(x.double().square().sum())
    with cpu_without_float64(), Float64Forbidden() as mode:
        found = squared_norm(x)
    assert mode.operations > 10
    assert abs(float(found) / truth - 1) < 1e-7
    flat = torch.zeros(())
    for part in x.float().square().split(1000):
        flat = flat + part.sum()
    assert abs(float(flat) / truth - 1) > 1e-7


def test_the_guard_sees_float64():
    with pytest.raises(Float64Error), Float64Forbidden():
        torch.zeros(1, dtype=torch.float64)
    with pytest.raises(Float64Error), Float64Forbidden():
        torch.zeros(1).double()
    with pytest.raises(Float64Error), Float64Forbidden():
        squared_norm(torch.ones(3))


@pytest.mark.parametrize("beta", [0.999, 0.9, 0.0])
@pytest.mark.parametrize("step", [1, 2, 50, 100_000])
def test_the_bias_correction(beta, step):
    """1 − 0.999 in fp32 would be off by 5e-5."""
    wanted = bias_correction(beta, torch.tensor(float(step)))
    assert wanted == 1 - beta**step
    with cpu_without_float64(), Float64Forbidden():
        found = float(bias_correction(beta, torch.tensor(float(step))))
    assert found == pytest.approx(wanted, rel=3e-7)
