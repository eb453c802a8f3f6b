"""Random signs for sketches: stateless, and the same at every use of a parameter."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

MASK = 2**64 - 1
# Beyond this number, signs are products of two: a table of tokens needs too many to draw them for
# every example.
INNER = 2**13


def mix(*numbers: int) -> int:
    """A seed of 32 bits from several numbers: similar inputs give unrelated seeds.

    It uses the finaliser of splitmix64.

    >>> mix(0, 1) != mix(1, 0) and mix(3, 4) == mix(3, 4)
    True
    """
    state = 0
    for number in numbers:
        state ^= number & MASK
        state = state + 0x9E3779B97F4A7C15 & MASK
        state ^= state >> 30
        state = state * 0xBF58476D1CE4E5B9 & MASK
        state ^= state >> 27
        state = state * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state >> 32  # the generator on the CPU accepts no more bits


@cache
def _table(dtype: torch.dtype, device: torch.device) -> Tensor:
    numbers = torch.arange(256, device=device).unsqueeze(1)
    places = torch.arange(8, device=device)
    bits = numbers >> places & 1
    return (bits * 2 - 1).to(dtype)  # (256, 8)


def _drawn(size: int) -> tuple[int, int]:
    """How many inner and outer signs are drawn for ``size``: outer ones only if it is large."""
    if size <= INNER:
        return size, 0
    return INNER, math.ceil(size / INNER)


def bytes_for(size: int) -> int:
    """Bytes of drawn bits for ``size`` signs and one more."""
    inner, outer = _drawn(size)
    return (inner + outer) // 8 + 1


class Signs:
    """Signs of one parameter for every example and sketch: ±1/√m, so that m squares are averaged.

    Any two are independent, which makes sketches unbiased. The spread of a sketch depends on sets
    of four signs: up to ``INNER`` signs all of these are independent, beyond it almost all.

    Args:
        packed: int32 of shape (B, m, bytes), eight drawn bits in each number.
        size: number of signs per example and sketch.
    """

    def __init__(self, packed: Tensor, size: int) -> None:
        self.packed = packed
        self.size = size
        self._inner, self._outer = _drawn(size)

    def dense(self, dtype: torch.dtype, also: int = 0) -> Tensor:
        """All signs, shape (B, m, size + also), where ``also`` is 0 or 1."""
        table = _table(dtype, self.packed.device)
        drawn = torch.nn.functional.embedding(self.packed, table).flatten(2)
        if not self._outer:
            return self._share(drawn[..., : self.size + also])
        inner = drawn[..., : self._inner]
        outer = drawn[..., self._inner : self._inner + self._outer]
        products = outer.unsqueeze(3) * inner.unsqueeze(2)
        signs = products.flatten(2)[..., : self.size]
        if also:
            last = drawn[..., -1:]
            signs = torch.cat([signs, last], 2)
        return self._share(signs)

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The signs at ``index`` (B, T), shape (B, m, T): what ``dense`` holds there."""
        sketches = self.packed.shape[1]
        index = index.unsqueeze(1).expand(-1, sketches, -1)  # (B, m, T)
        bits = self._bits(index % INNER)
        if self._outer:
            outer_bits = self._bits(self._inner + index // INNER)
            bits = bits ^ outer_bits ^ 1  # a product of signs is the agreement of bits
        signs = bits.to(dtype).mul_(2).sub_(1)
        return self._share(signs)

    def _bits(self, index: Tensor) -> Tensor:
        numbers = self.packed.gather(2, index >> 3)
        return numbers >> (index & 7) & 1

    def _share(self, signs: Tensor) -> Tensor:
        sketches = self.packed.shape[1]
        if sketches == 1:
            return signs
        root: float = sketches**0.5
        return signs / root


def join_signs(parts: Sequence[Signs]) -> Signs:
    """The signs of parameters of one size, the examples of one after those of the other."""
    if len(parts) == 1:
        return parts[0]
    return Signs(torch.cat([part.packed for part in parts]), parts[0].size)


class Directions:
    """Draws the signs of all parameters of a micro-batch in one call, with its own generator.

    Args:
        sizes: number of signs per example and sketch, by parameter.
        sketches: m, the number of independent sketches.
        device: where the signs are drawn and used.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        sketches: int,
        device: torch.device,
    ) -> None:
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

    def need(self, name: str, size: int) -> None:
        """Makes room for a parameter; not within a micro-batch whose signs were asked for."""
        if self._sizes.get(name) == size:
            return
        width = bytes_for(size)
        self._sizes[name] = size
        self._spans[name] = (self._bytes, width)
        self._bytes += width

    def begin(self, seed: int, examples: int) -> None:
        """A micro-batch begins. Nothing is drawn before signs are requested."""
        self._seed = seed
        self._examples = examples
        self._pool = None

    def signs(self, name: str) -> Signs:
        """The signs of one parameter, the same at every request within a micro-batch."""
        each = self._examples * self._sketches
        if self._pool is None:
            generator = torch.Generator(self._device).manual_seed(self._seed)
            drawn = torch.empty(self._bytes * each, dtype=torch.int32, device=self._device)
            self._pool = drawn.random_(0, 256, generator=generator)
        start, width = self._spans[name]
        first = start * each
        packed = self._pool[first : first + width * each]
        packed = packed.view(self._examples, self._sketches, width)
        return Signs(packed, self._sizes[name])

    def end(self) -> None:
        """Forgets the signs of the micro-batch."""
        self._pool = None
