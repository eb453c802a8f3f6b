"""The batch sizes of one epoch, batch by batch: what samplers draw by and totals are counted by."""

import math
from fractions import Fraction
from typing import NamedTuple


class Stretch(NamedTuple):
    """Batches of one size, from the batch ``first`` of the epoch on."""

    first: int
    size: int


class EpochSizes:
    """The sizes of the batches of an epoch, as ratios to the original sizes of the loaders.

    One object serves all training loaders of a fit. A size may only be changed for batches that no
    loader has drawn yet.

    Attributes:
        begins_at: batches of the epoch that were trained on before its loaders were prepared, as
            when a run is resumed.
        passes: counts how often that was set, so that a sampler can tell a new order to skip
            batches from an old one.

    >>> sizes = EpochSizes()
    >>> sizes.change(10, Fraction(2))
    >>> sizes.stretches(4), sizes.size(4, batch=9), sizes.size(4, batch=10)
    ([Stretch(first=0, size=4), Stretch(first=10, size=8)], 4, 8)
    """

    def __init__(self) -> None:
        self._ratios: dict[int, Fraction] = {0: Fraction(1)}  # by the first batch
        self.begins_at = 0
        self.passes = 0

    def restart(self, ratio: Fraction) -> None:
        """A new epoch, all of whose batches have ``ratio`` times the original size."""
        self._ratios = {0: ratio}
        self.go_to(0)

    def go_to(self, batch: int) -> None:
        """Samplers that begin from now on continue with this batch of the epoch."""
        self.begins_at = batch
        self.passes += 1

    def change(self, batch: int, ratio: Fraction) -> None:
        """From ``batch`` on, batches have ``ratio`` times the original size."""
        kept = {first: old for first, old in self._ratios.items() if first < batch}
        self._ratios = {**kept, batch: ratio}

    @property
    def first_ratio(self) -> Fraction:
        """At the begin of the epoch."""
        return self._ratios[0]

    @property
    def latest_change(self) -> int:
        """The first batch of the last size; 0 where the size does not change."""
        return max(self._ratios)

    @property
    def changes(self) -> bool:
        """Whether the epoch has batches of more than one size."""
        return len(set(self._ratios.values())) > 1

    def stretches(self, original: int) -> list[Stretch]:
        """The sizes of a loader whose own batch size is ``original``."""
        return [Stretch(first, size_of(original, ratio)) for first, ratio in self._ratios.items()]

    def size(self, original: int, batch: int) -> int:
        """The size of one batch of such a loader."""
        first = max(begin for begin in self._ratios if begin <= batch)
        return size_of(original, self._ratios[first])

    def state_dict(self) -> list[list[int]]:
        """As plain values."""
        return [
            [first, ratio.numerator, ratio.denominator] for first, ratio in self._ratios.items()
        ]

    def load_state_dict(self, saved: list[list[int]]) -> None:
        """Restores :meth:`state_dict`."""
        self._ratios = {first: Fraction(top, bottom) for first, top, bottom in saved}


def size_of(original: int, ratio: Fraction) -> int:
    """``ratio`` times a batch size, at least 1."""
    return max(1, int(original * ratio))


def examples_before(batch: int, stretches: list[Stretch]) -> int:
    """Examples of the first ``batch`` batches, if all of them are full.

    >>> examples_before(12, [Stretch(0, 4), Stretch(10, 8)])
    56
    """
    examples = 0
    ends = [stretch.first for stretch in stretches[1:]] + [batch]
    for (first, size), end in zip(stretches, ends, strict=True):
        examples += size * max(0, min(end, batch) - first)
    return examples


def batches_for(examples: int, stretches: list[Stretch], *, drop_last: bool = False) -> int:
    """Batches that an epoch of so many examples has.

    >>> batches_for(57, [Stretch(0, 4), Stretch(10, 8)])
    13
    >>> batches_for(57, [Stretch(0, 4), Stretch(10, 8)], drop_last=True)
    12
    """
    stretch = stretches[0]
    for later in stretches:
        if examples_before(later.first, stretches) < examples:
            stretch = later
    left = Fraction(examples - examples_before(stretch.first, stretches), stretch.size)
    if drop_last:
        return stretch.first + math.floor(left)
    return stretch.first + math.ceil(left)


def first_batch_of_both(drawn: int, windows: tuple[int, int]) -> int:
    """The first batch from ``drawn`` on with which a step begins, by the old and the new number of
    micro-batches per step.

    Lightning counts the batches of a step from the begin of the epoch.

    >>> first_batch_of_both(100, (2, 3))
    102
    """
    together = math.lcm(*windows)
    return math.ceil(drawn / together) * together
