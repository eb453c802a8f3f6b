"""Further search where a range was widened: by the user, or because a winner lay at its edge. Pure.

The points of a range that were run stay what they are. What is added to it is a strip, which is
searched as densely as the range itself.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from optuna.distributions import FloatDistribution

from lightning_noise.study.settings import MOST
from lightning_noise.study.space import (
    COMPLEMENT,
    EDGE,
    Distributions,
    Parameters,
    at_position,
    float_ranges,
    points,
    position,
)

STEP = 0.25  # of a range, in the scale that is searched: by how much an edge is moved at once
MOST_STEPS = 8  # of one edge
NARROW = 1e-6  # a strip of less than this share of the range is none
SIDES = ("low", "high")


class Strip(NamedTuple):
    """A part that was added to the search space.

    Attributes:
        name: of the parameter whose range was widened.
        side: "low" or "high".
        number: of the strip among all that can be, from 1.
        space: what is searched: the added part of that range, and all of the others.
        share: width of the added part, as a share of the first range.
        own: it was added because a winner lay at the edge, not by the user.
    """

    name: str
    side: str
    number: int
    space: Distributions
    share: float
    own: bool

    def count(self, trials: int) -> int:
        """Its number of points, where the range itself has ``trials``."""
        return min(MOST, math.ceil(trials * self.share - 1e-9))

    def points(self, trials: int, seed: int) -> dict[int, Parameters]:
        """Its points, by the number of their trial."""
        found = points(self.space, self.count(trials), seed + self.number)
        first = self.number * MOST
        return dict(enumerate(found, start=first))


def with_strip(space: Distributions, strip: Strip) -> Distributions:
    """The search space with what a strip added to it."""
    before = float_ranges(space)[strip.name]
    added = float_ranges(strip.space)[strip.name]
    low = min(before.low, added.low)
    high = max(before.high, added.high)
    return {**space, strip.name: FloatDistribution(low, high, log=before.log)}


def of_user(spaces: Sequence[Distributions]) -> list[Strip]:
    """What the user has added, from the ranges that a study had, oldest first."""
    first = float_ranges(spaces[0])
    current = spaces[0]
    found = []
    for change, later in enumerate(spaces[1:], start=1):
        for name, wanted in float_ranges(later).items():
            for side in SIDES:
                low, high = _added(float_ranges(current)[name], wanted, side)
                share = _width(first[name], low, high)
                if share < NARROW:
                    continue
                part = FloatDistribution(low, high, log=wanted.log)
                strip = Strip(
                    name=name,
                    side=side,
                    number=_number(current, name, side, change, 0),
                    space={**current, name: part},
                    share=share,
                    own=False,
                )
                found.append(strip)
                current = with_strip(current, strip)
    return found


def of_edges(
    spaces: Sequence[Distributions],
    edges: Sequence[tuple[str, str]],
    before: Sequence[Strip],
    limit: int,
) -> list[Strip]:
    """What to add where winners lie at edges.

    Args:
        spaces: the ranges that the study had, oldest first.
        edges: (parameter, side) of winners, see :func:`edges_of`.
        before: strips that were added in this way before.
        limit: how often an edge may be moved.
    """
    first = float_ranges(spaces[0])
    current = spaces[-1]
    found = []
    for name, side in sorted(set(edges)):
        moved = len([strip for strip in before if (strip.name, strip.side) == (name, side)])
        if moved >= min(limit, MOST_STEPS - 1):
            continue
        low, high = _next(first[name], float_ranges(current)[name], side, moved)
        if name.startswith(COMPLEMENT):
            high = min(high, 1.0)  # a momentum is not negative
        share = _width(first[name], low, high)
        if share < NARROW:
            continue
        part = FloatDistribution(low, high, log=first[name].log)
        strip = Strip(
            name=name,
            side=side,
            number=_number(current, name, side, len(spaces) - 1, moved + 1),
            space={**current, name: part},
            share=share,
            own=True,
        )
        found.append(strip)
    return found


def edges_of(space: Distributions, point: Parameters) -> Iterator[tuple[str, str]]:
    """(parameter, side) of every edge that a point lies at and that may be moved.

    A rate, a momentum and decay steps mean something beyond any range; of other parameters that is
    not known.
    """
    for name, dist in float_ranges(space).items():
        if name not in ("learning_rate", "decay_steps") and not name.startswith(COMPLEMENT):
            continue
        u = position(dist, point[name])
        if u < EDGE:
            yield name, "low"
        if u > 1 - EDGE:
            yield name, "high"


def _added(before: FloatDistribution, later: FloatDistribution, side: str) -> tuple[float, float]:
    if side == "low":
        return later.low, before.low
    return before.high, later.high


def _next(
    first: FloatDistribution,
    current: FloatDistribution,
    side: str,
    moved: int,
) -> tuple[float, float]:
    """The next part beyond the range, a quarter of the first range wide."""
    if side == "low":
        edge = position(first, current.low) - moved * STEP
        return at_position(first, edge - STEP), at_position(first, edge)
    edge = position(first, current.high) + moved * STEP
    return at_position(first, edge), at_position(first, edge + STEP)


def _width(first: FloatDistribution, low: float, high: float) -> float:
    return position(first, high) - position(first, low)


def _number(space: Distributions, name: str, side: str, change: int, step: int) -> int:
    """The same for the same part of the space, whatever else was added."""
    parameter = sorted(space).index(name)
    edge = 2 * parameter + SIDES.index(side)
    return 1 + step + MOST_STEPS * (edge + 2 * len(space) * change)
