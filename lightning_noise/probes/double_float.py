"""Numbers in twice single precision, for devices without float64 (MPS).

A number is an unevaluated sum of two fp32 numbers, which hold 48 bits together. Sums and products
of fp32 numbers split into two such parts without any error (Dekker 1971; Knuth, *The Art of
Computer Programming* 2, section 4.2.2). The range is that of fp32: squares below 1e-30 lose digits,
and above 3e38 they are not finite.
"""

import ctypes
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # kinds of device
SPLITTER = 2.0**12 + 1  # halves the 24 bits of fp32
Index: TypeAlias = Any  # whatever a tensor can be indexed with


def has_float64(device: torch.device) -> bool:
    """Whether tensors on a device can be in fp64."""
    return device.type not in WITHOUT_FLOAT64


def widest(device: torch.device) -> torch.dtype:
    """fp64, or fp32 on a device without it."""
    return torch.float64 if has_float64(device) else torch.float32


class Halves(NamedTuple):
    """Two numbers that are meant as their sum; tensors of fp32, or Python floats."""

    high: Any
    low: Any


def two_sum(a: Tensor, b: Tensor) -> Halves:
    """a + b rounded to fp32, and exactly what was rounded away."""
    total = a + b
    of_b = total - a
    return Halves(total, (a - (total - of_b)) + (b - of_b))


def _quick_two_sum(a: Tensor, b: Tensor) -> Halves:
    """As :func:`two_sum`, where \\|a\\| ≥ \\|b\\|."""
    total = a + b
    return Halves(total, b - (total - a))


def _split(a: Tensor) -> Halves:
    """Two numbers of 12 bits with the sum ``a``: products of such numbers are exact."""
    large = a * SPLITTER
    high = large - (large - a)
    return Halves(high, a - high)


def _two_product(a: Tensor, b: Any, of_b: Halves) -> Halves:
    """a·b rounded to fp32, and exactly what was rounded away; ``of_b`` is ``b``, split."""
    product = a * b
    of_a = _split(a)
    error = of_a.high * of_b.high - product
    error = error + of_a.high * of_b.low
    error = error + of_a.low * of_b.high
    return Halves(product, error + of_a.low * of_b.low)


def _as_single(number: float) -> float:
    return ctypes.c_float(number).value


def _split_number(number: float) -> Halves:
    """:func:`_split` for a number on the host that fp32 can hold."""
    if not math.isfinite(number):
        return Halves(number, 0.0)
    mantissa, exponent = math.frexp(number)
    high = math.ldexp(round(mantissa * 2**12), exponent - 12)
    return Halves(high, number - high)


class DoubleFloat:
    """Numbers as sums of two fp32 tensors of one shape, on one device.

    It has the operations that squared norms and rows of moments need. Nothing is read from the
    device but by :func:`float`.

    Args:
        high: the numbers, rounded to fp32.
        low: what was rounded away.

    >>> third = DoubleFloat.zeros((1,), torch.device("cpu")).fill_(1.0) / 3
    >>> round(float(third[0]) * 3, 14), round(float(third.high[0]) * 3, 14)
    (1.0, 1.00000002980232)
    """

    __slots__ = ("high", "low")

    def __init__(self, high: Tensor, low: Tensor) -> None:
        self.high = high
        self.low = low

    @classmethod
    def zeros(cls, shape: Sequence[int], device: torch.device) -> "DoubleFloat":
        """As ``torch.zeros``."""
        high = torch.zeros(tuple(shape), dtype=torch.float32, device=device)
        return cls(high, torch.zeros_like(high))

    @classmethod
    def squares(cls, numbers: Tensor) -> "DoubleFloat":
        """The squares of fp32 numbers, without any error."""
        return cls(*_two_product(numbers, numbers, _split(numbers)))

    @property
    def device(self) -> torch.device:
        """Of both tensors."""
        return self.high.device

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, index: Index) -> "DoubleFloat":
        return DoubleFloat(self.high[index], self.low[index])

    def __setitem__(self, index: Index, value: "DoubleFloat | float") -> None:
        if isinstance(value, DoubleFloat):
            self.high[index] = value.high
            self.low[index] = value.low
        else:
            self[index].fill_(value)

    def __float__(self) -> float:
        high, low = torch.stack([self.high, self.low]).tolist()
        return float(high + low)

    def __add__(self, other: "DoubleFloat") -> "DoubleFloat":
        high, low = two_sum(self.high, other.high)
        return DoubleFloat(*_quick_two_sum(high, low + (self.low + other.low)))

    def __mul__(self, factor: float) -> "DoubleFloat":
        high = _as_single(factor)
        product, error = _two_product(self.high, high, _split_number(high))
        error = error + (self.high * _as_single(factor - high) + self.low * high)
        return DoubleFloat(*_quick_two_sum(product, error))

    def __truediv__(self, divisor: float) -> "DoubleFloat":
        return self * (1 / divisor)

    def over(self, divisor: Tensor) -> "DoubleFloat":
        """Divided by an fp32 tensor, which is not read."""
        quotient = self.high / divisor
        product, error = _two_product(quotient, divisor, _split(divisor))
        rest = ((self.high - product) - error) + self.low
        return DoubleFloat(*_quick_two_sum(quotient, rest / divisor))

    def sum(self) -> "DoubleFloat":
        """Of all numbers along the only dimension, as a pair of shape ()."""
        size = 1 << max(0, len(self) - 1).bit_length()
        high, low = DoubleFloat.zeros((2, size), self.device).high
        high[: len(self)] = self.high
        low[: len(self)] = self.low
        while size > 1:
            size //= 2
            left, right = high[:size], high[size:]
            below = low[:size] + low[size:]
            high, error = two_sum(left, right)
            low = below + error
        return DoubleFloat(*_quick_two_sum(high[0], low[0]))

    def fill_(self, number: float) -> "DoubleFloat":
        """One number everywhere, in place: nothing is copied from the host."""
        high = _as_single(number)
        rounded_away = 0.0
        if math.isfinite(number):
            rounded_away = number - high
        self.high.fill_(high)
        self.low.fill_(rounded_away)
        return self

    def zero_(self) -> "DoubleFloat":
        """Zero everywhere, in place."""
        return self.fill_(0.0)

    def clone(self) -> "DoubleFloat":
        """A copy."""
        return DoubleFloat(self.high.clone(), self.low.clone())

    def flatten(self) -> "DoubleFloat":
        """Along one dimension."""
        return DoubleFloat(self.high.flatten(), self.low.flatten())


# A tensor in fp64, or pairs on a device without it. Both have the operations that are needed, which
# a union cannot express: the operands of each are of one kind.
Wide: TypeAlias = Any


def wide_zeros(shape: Sequence[int], device: torch.device) -> Wide:
    """Zeros in fp64, or in pairs on a device without it."""
    if has_float64(device):
        return torch.zeros(tuple(shape), dtype=torch.float64, device=device)
    return DoubleFloat.zeros(shape, device)


def sum_of_squares_in_pairs(parts: Iterable[Tensor], device: torch.device) -> DoubleFloat:
    """The sum of squares of fp32 tensors of one dimension, as a pair of shape ()."""
    found = list(parts)
    if not found:
        return DoubleFloat.zeros((), device)
    return DoubleFloat.squares(torch.cat(found).float()).sum()


def wide_sum(rows: Sequence[Wide]) -> Wide:
    """The sum of one or more numbers of one shape.

    >>> wide_sum([torch.ones(2), torch.ones(2)])
    tensor([2., 2.])
    """
    if len(rows) == 1:
        return rows[0].clone()
    if isinstance(rows[0], Tensor):
        return torch.stack(list(rows)).sum(dim=0)
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def wide_stack(scalars: Sequence[Wide], device: torch.device) -> Wide:
    """Numbers of shape () along one dimension.

    >>> wide_stack([torch.ones(()), torch.ones(())], torch.device("cpu"))
    tensor([1., 1.])
    """
    if not scalars:
        return wide_zeros((0,), device)
    if isinstance(scalars[0], DoubleFloat):
        highs = torch.stack([pair.high for pair in scalars])
        lows = torch.stack([pair.low for pair in scalars])
        return DoubleFloat(highs, lows)
    if len(scalars) == 1:
        return scalars[0].reshape(1)
    return torch.stack(list(scalars))


def read(scalars: Sequence[Wide]) -> list[float]:
    """Numbers of shape () on the host, in one copy. Waits for the device."""
    if not isinstance(scalars[0], DoubleFloat):
        return [float(number) for number in torch.stack(list(scalars)).tolist()]
    highs = torch.stack([pair.high for pair in scalars])
    lows = torch.stack([pair.low for pair in scalars])
    high_and_low = torch.stack([highs, lows]).tolist()
    return list(map(sum, zip(*high_and_low, strict=True)))


def in_float64(numbers: Sequence[Wide]) -> list[Tensor]:
    """Numbers of one dimension each, in fp64 on the host. One copy, where they are pairs."""
    pairs = [one for one in numbers if isinstance(one, DoubleFloat)]
    if len(pairs) < len(numbers):
        return list(map(_on_host, numbers))
    highs = torch.cat([pair.high for pair in pairs])
    lows = torch.cat([pair.low for pair in pairs])
    summed = torch.stack([highs, lows]).cpu().double().sum(dim=0)
    return list(summed.split(list(map(len, pairs))))


def _on_host(numbers: Wide) -> Tensor:
    if isinstance(numbers, DoubleFloat):
        return numbers.high.cpu().double() + numbers.low.cpu().double()
    found: Tensor = numbers.cpu().double()
    return found
