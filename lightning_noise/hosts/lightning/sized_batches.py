"""A batch sampler that looks up the size of every batch when it draws it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from lightning_noise.hosts.lightning.epoch_sizes import EpochSizes, Stretch, batches_for


class Randomness(NamedTuple):
    """The random states that a sampler's order was drawn from: torch's, and the sampler's own."""

    default: Tensor
    own: Tensor | None

    @classmethod
    def of(cls, generator: torch.Generator | None) -> "Randomness":
        """The states now."""
        own = None
        if generator is not None:
            own = generator.get_state()
        return cls(torch.get_rng_state(), own)

    @contextmanager
    def restored(self, generator: torch.Generator | None) -> Iterator[None]:
        """Draws inside the context are those of before; torch's state is unchanged after it."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.default)
            if generator is not None and self.own is not None:
                generator.set_state(self.own)
            yield

    def to_plain(self) -> list[str | None]:
        """As plain values, for a checkpoint."""
        return [_to_hex(self.default), _to_hex(self.own)]

    @classmethod
    def from_plain(cls, saved: list[str | None]) -> "Randomness":
        """Reads :meth:`to_plain`."""
        default, own = map(_from_hex, saved)
        if default is None:
            raise TypeError("torch's random state is missing")
        return cls(default, own)


class SizedBatchSampler(BatchSampler):
    """Batches of a user's sampler, whose sizes are looked up as they are drawn.

    At one size it yields what torch's ``BatchSampler`` yields. Worker processes draw ahead: a
    changed size therefore arrives later than it is drawn, and :attr:`drawn` says where.

    Args:
        inner: the batch sampler of the user's loader.
        original: its batch size.
        sizes: of the epoch, shared with whoever changes them.
        skips: whether batches that were trained on before a resume are skipped here; else their
            loader does it itself, or cannot.
        begins_inside: for a loader that continues elsewhere than at the begin of the epoch without
            skipping, as a stream does: its first batch counts as that of the resume.

    Attributes:
        drawn: batches drawn in this epoch.
        randomness: what the order of this epoch was drawn from.

    >>> from fractions import Fraction
    >>> sizes = EpochSizes()
    >>> sizes.change(1, Fraction(2))
    >>> list(SizedBatchSampler(BatchSampler(range(7), 2, False), 2, sizes))
    [[0, 1], [2, 3, 4, 5], [6]]
    """

    def __init__(
        self,
        inner: BatchSampler,
        original: int,
        sizes: EpochSizes,
        *,
        skips: bool = True,
        begins_inside: bool = False,
    ) -> None:
        super().__init__(inner.sampler, original, inner.drop_last)
        self.inner = inner
        self.drawn = 0
        self.randomness: Randomness | None = None
        self._sizes = sizes
        self.original = original
        self.skips = skips
        self._begins_inside = begins_inside
        self._pass = -1

    @property
    def batch_size(self) -> int:
        """The latest size of the epoch, which batches that were drawn before may not have."""
        return self.stretches[-1].size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        """Ignored: the sizes of the epoch count. torch's constructor assigns it."""

    @property
    def stretches(self) -> list[Stretch]:
        """The sizes of the epoch."""
        return self._sizes.stretches(self.original)

    def __iter__(self) -> Iterator[list[int]]:
        done = 0
        if self._sizes.passes != self._pass:  # a loader that others outlast begins anew
            self._pass = self._sizes.passes
            done = self._sizes.begins_at
        order = self._order(resumes=done > 0)
        drawn = 0
        if self._begins_inside:
            drawn = done
        while True:
            size = self._sizes.size(self.original, drawn)
            batch = list(islice(order, size))
            if not batch or (self.drop_last and len(batch) < size):
                return
            drawn += 1
            if self.skips and drawn <= done:
                continue
            self.drawn = drawn
            yield batch

    def _order(self, *, resumes: bool) -> Iterator[int]:
        """The sampler's order; on resuming, the one that the epoch began with."""
        order = iter(self.sampler)
        generator = getattr(self.sampler, "generator", None)
        if not resumes or self.randomness is None:
            self.randomness = Randomness.of(generator)
            return order
        with self.randomness.restored(generator):  # torch's samplers draw it with the first index
            first = list(islice(order, 1))
        return chain(first, order)

    def __len__(self) -> int:
        examples = len(self.sampler)  # type: ignore[arg-type]  # as torch's BatchSampler does
        return batches_for(examples, self.stretches, drop_last=self.drop_last)


def _to_hex(state: Tensor | None) -> str | None:
    if state is None:
        return None
    return bytes(state.tolist()).hex()


def _from_hex(saved: str | None) -> Tensor | None:
    if saved is None:
        return None
    return torch.tensor(list(bytes.fromhex(saved)), dtype=torch.uint8)
