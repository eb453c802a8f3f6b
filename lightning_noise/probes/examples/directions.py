"""Random signs for sketches: stateless, and the same at every use of a parameter."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

MASK = 2**64 - 1
# Beyond so many, signs are products of two: a table of tokens has too many to draw per example.
INNER = 2**13


def mix(*numbers: int) -> int:
    """A seed of 32 bits from several numbers: close inputs give unrelated seeds.

    It is the finaliser of splitmix64.

    >>> mix(0, 1) != mix(1, 0) and mix(3, 4) == mix(3, 4)
    True
    """
    state = 0
    for number in numbers:
        state = (state ^ (number & MASK)) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state >> 32  # the generator on the CPU takes no more


@cache
def _table(dtype: torch.dtype, device: torch.device) -> Tensor:
    bits = torch.arange(256, device=device).unsqueeze(1) >> torch.arange(8, device=device) & 1
    return (bits * 2 - 1).to(dtype)  # (256, 8)


def _drawn(size: int) -> tuple[int, int]:
    """How many inner and outer signs are drawn for ``size``; no outer ones where inner ones do."""
    return (size, 0) if size <= INNER else (INNER, -(-size // INNER))


def bytes_for(size: int) -> int:
    """Bytes of drawn bits for ``size`` signs and one more."""
    return sum(_drawn(size)) // 8 + 1


class Signs:
    """Signs of one parameter for every example and sketch: ±1/√m, so that m squares are averaged.

    Any two are independent, which makes sketches unbiased. Up to ``INNER`` of them all are, beyond
    almost all sets of four, on which the spread depends.

    Args:
        packed: int32 of shape (B, m, bytes), eight drawn bits in each number.
        size: how many signs an example and sketch has.
    """

    def __init__(self, packed: Tensor, size: int) -> None:
        self.packed = packed
        self.size = size
        self._inner, self._outer = _drawn(size)

    def dense(self, dtype: torch.dtype, also: int = 0) -> Tensor:
        """All signs, shape (B, m, size + also); one more may be asked for."""
        table = _table(dtype, self.packed.device)
        drawn = torch.nn.functional.embedding(self.packed, table).flatten(2)
        if not self._outer:
            return self._share(drawn[..., : self.size + also])
        inner = drawn[..., : self._inner]
        outer = drawn[..., self._inner : self._inner + self._outer]
        signs = (outer.unsqueeze(3) * inner.unsqueeze(2)).flatten(2)[..., : self.size]
        signs = torch.cat([signs, drawn[..., -1:]], 2) if also else signs
        return self._share(signs)

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The signs at ``index`` (B, T), shape (B, m, T): what ``dense`` holds there."""
        index = index.unsqueeze(1).expand(-1, self.packed.shape[1], -1)  # (B, m, T)
        bits = self._bits(index % INNER)
        if self._outer:
            # a product of signs is the agreement of bits
            bits = bits ^ self._bits(self._inner + index // INNER) ^ 1
        return self._share(bits.to(dtype).mul_(2).sub_(1))

    def _bits(self, index: Tensor) -> Tensor:
        return self.packed.gather(2, index >> 3) >> (index & 7) & 1

    def _share(self, signs: Tensor) -> Tensor:
        sketches = self.packed.shape[1]
        return signs if sketches == 1 else signs / sketches**0.5


class Directions:
    """Draws the signs of all parameters of a micro-batch in one call of a generator of its own.

    Args:
        sizes: signs that an example and sketch need, by parameter.
        sketches: m, independent sketches.
        device: where the signs are drawn and used.
    """

    def __init__(self, sizes: Mapping[str, int], sketches: int, device: torch.device) -> None:
        self._sizes = dict(sizes)
        self._sketches = sketches
        self._device = device
        self._spans: dict[str, tuple[int, int]] = {}  # first byte and number of bytes
        self._bytes = 0
        for name, size in sizes.items():
            width = bytes_for(size)
            self._spans[name] = (self._bytes, width)
            self._bytes += width
        self._pool: Tensor | None = None
        self._seed = 0
        self._examples = 0

    def begin(self, seed: int, examples: int) -> None:
        """A new micro-batch; nothing is drawn before signs are asked for."""
        self._seed = seed
        self._examples = examples
        self._pool = None

    def signs(self, name: str) -> Signs:
        """The signs of one parameter, the same whenever they are asked for within a micro-batch."""
        each = self._examples * self._sketches
        if self._pool is None:
            generator = torch.Generator(self._device).manual_seed(self._seed)
            drawn = torch.empty(self._bytes * each, dtype=torch.int32, device=self._device)
            self._pool = drawn.random_(0, 256, generator=generator)
        start, width = self._spans[name]
        packed = self._pool[start * each : (start + width) * each]
        return Signs(packed.view(self._examples, self._sketches, width), self._sizes[name])

    def end(self) -> None:
        """Forgets the signs of the micro-batch."""
        self._pool = None
