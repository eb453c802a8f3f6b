"""One optimizer step whose groups are single examples, micro-batch by micro-batch."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning_noise.core.reasons import Reason
from lightning_noise.probes.double_float import Wide, wide_sum
from lightning_noise.probes.examples.pass_seen import PassSeen
from lightning_noise.probes.rows import step_row


class Pass(NamedTuple):
    """One micro-batch as the host announced it.

    Args:
        examples: B_k, seen by the layers.
        size: what the host counts, usually the same number.
        weight: v_k, what its loss was multiplied by.
    """

    examples: int
    size: float
    weight: float


class Step:
    """The micro-batches of one optimizer step.

    Attributes:
        micro_batches: how many have ended.
        open: the one that has begun and not ended.
        fault: the first reason why the step cannot be used.
        positions: layers whose rows are positions, not examples.
        handed: parameters that are watched in calls of functions from the next step on.
    """

    def __init__(self) -> None:
        self.micro_batches = 0
        self.open: Pass | None = None
        self.fault: Reason | None = None
        self.positions: frozenset[str] = frozenset()
        self.handed: set[str] = set()
        self._passes: list[Pass] = []
        self._squares: list[Wide] = []

    @property
    def seen(self) -> bool:
        """Whether a micro-batch of weight above 0 has ended."""
        return bool(self._passes)

    def close(self) -> Pass | None:
        """Ends the open micro-batch and returns it."""
        ended = self.open
        self.open = None
        return ended

    def add(self, ended: Pass, seen: PassSeen) -> None:
        """Adds what was seen of a micro-batch that has ended."""
        self.micro_batches += 1
        self.positions |= seen.positions
        if ended.weight > 0:
            self._passes.append(ended)
            self._squares.append(seen.squares)

    def spoil(self, fault: Reason) -> None:
        """The step cannot be used."""
        self.fault = self.fault or fault

    def row(self, big: Wide) -> Wide:
        """The moments of the step, from |Σ c_i|² by key."""
        return example_row(self._squares, big, self._passes)


def example_row(
    squares: Sequence[Wide],
    big: Wide,
    passes: Sequence[Pass],
) -> Wide:
    """Moments by key from the contributions c_i that the examples made to the step's gradient.

    The weight of a micro-batch is divided evenly among its examples: the share of an example is
    p_i = v_k / (B_k Σ v), which is 1/N for micro-batches of one size. The share does not depend on
    how many tokens an example has. Where the host counts something other than examples (tokens), an
    example is a group of mean size b_k = size_k / B_k.

    Args:
        squares: Σ_i |c_i|² by key of every micro-batch, fp64 of shape (keys,), from losses
            multiplied by v_k.
        big: |Σ c_i|² by key, fp64 of shape (keys,).
        passes: the micro-batches, with weights above 0.

    Returns:
        fp64 of shape (keys, 4).
    """
    total = sum(one.weight for one in passes)
    shares: list[Wide] = []
    for square, one in zip(squares, passes, strict=True):
        shares.append(square * (one.examples / one.weight / total))
    return step_row(
        wide_sum(shares),
        big / total**2,
        c_small=sum(one.weight / total * one.examples / one.size for one in passes),
        c_big=sum((one.weight / total) ** 2 / one.size for one in passes),
    )
