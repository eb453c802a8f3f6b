"""Random signs for the sketches of one micro-batch: stateless, cheap, and the same at every use of a parameter."""

from collections.abc import Mapping
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

MASK = 2**64 - 1


def mix(*numbers: int) -> int:
    """A seed of 32 bits from several numbers: close inputs give unrelated seeds (the finaliser of splitmix64).

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
def _table(dtype: torch.dtype, device: torch.device, sketches: int) -> Tensor:
    bits = torch.arange(256, device=device).unsqueeze(1) >> torch.arange(8, device=device) & 1
    table: Tensor = (bits * 2 - 1).to(dtype) / sketches**0.5
    return table  # (256, 8)


class Signs:
    """Signs for every example and sketch of one parameter; each is ±1/√m, so that m squares are averaged.

    Args:
        packed: int32 of shape (B, m, bytes), eight signs in each number.
        size: how many of the signs of an example and sketch are used.
    """

    def __init__(self, packed: Tensor, size: int) -> None:
        self.packed = packed
        self.size = size

    def dense(self, dtype: torch.dtype) -> Tensor:
        """All signs, shape (B, m, size)."""
        table = _table(dtype, self.packed.device, self.packed.shape[1])
        signs = torch.nn.functional.embedding(self.packed, table)  # (B, m, bytes, 8)
        return signs.flatten(2)[..., : self.size]

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The signs at ``index`` (B, T), shape (B, m, T): the same numbers as ``dense`` holds there."""
        sketches = self.packed.shape[1]
        index = index.unsqueeze(1).expand(-1, sketches, -1)  # (B, m, T)
        bits = self.packed.gather(2, index >> 3) >> (index & 7) & 1
        return bits.to(dtype).mul_(2).sub_(1).div_(sketches**0.5)


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
        widths = [-(-size // 8) for size in sizes.values()]
        self._spans = dict(zip(sizes, zip(accumulate([0, *widths]), widths, strict=False), strict=True))
        self._bytes = sum(widths)
        self._pool: Tensor | None = None
        self._seed = self._examples = 0

    def begin(self, seed: int, examples: int) -> None:
        """A new micro-batch; nothing is drawn before signs are asked for."""
        self._seed, self._examples, self._pool = seed, examples, None

    def signs(self, name: str) -> Signs:
        """The signs of one parameter, the same whenever they are asked for within a micro-batch."""
        each = self._examples * self._sketches
        if self._pool is None:
            generator = torch.Generator(self._device).manual_seed(self._seed)
            drawn = torch.empty(self._bytes * each, dtype=torch.int32, device=self._device)
            self._pool = drawn.random_(0, 256, generator=generator)
        start, width = self._spans[name]
        packed = self._pool[start * each : (start + width) * each].view(self._examples, self._sketches, width)
        return Signs(packed, self._sizes[name])

    def end(self) -> None:
        """Forgets the signs of the micro-batch."""
        self._pool = None
