"""Which batch sizes to add where a fit of the critical batch size is refused or incomplete."""

import math
from collections.abc import Sequence
from typing import NamedTuple

LEAST_SIZES = 4
REACH = 4.0  # an interval bounded on both sides needs sizes from b_crit / REACH to b_crit * REACH
POOR_FIT = 0.1  # rms of ln S about the curve above which the shape, not the scatter, is in doubt
FIRST_SIZES = (8, 32, 128, 512)  # where nothing is known yet
BELOW_ONE = 1 - 1e-9  # so that rounding does not decide where the sizes reach just far enough


class NoFitError(ValueError):
    """The measured steps do not determine a critical batch size; the message names sizes to add.

    Args:
        message: with the sizes.
        sizes: the same as numbers.
    """

    def __init__(self, message: str, sizes: Sequence[float] = ()) -> None:
        super().__init__(message)
        self.sizes = tuple(sizes)


class Remedy(NamedTuple):
    """A reason to distrust a fit, and the batch sizes at which runs would mend it."""

    text: str
    sizes: tuple[float, ...]


class Straight(NamedTuple):
    """Which straight lines fit the steps as well as the curve does.

    Attributes:
        flat: constant steps.
        steep: perfect scaling, S ∝ 1/B.
    """

    flat: bool
    steep: bool


def refuse_few(sizes: Sequence[float]) -> None:
    """Refuses fewer than four batch sizes.

    Raises:
        NoFitError: with the sizes to add.
    """
    if len(sizes) >= LEAST_SIZES:
        return
    rule = "batch_sizes must hold at least four different sizes"
    if not sizes:
        raise NoFitError(f"{rule}, got none: measure at 8, 32, 128 and 512, say.", FIRST_SIZES)
    lacking = LEAST_SIZES - len(sizes)
    below = _below(sizes[0], sizes[0] / REACH)
    above = _above(sizes[-1], sizes[-1] * REACH**lacking)
    more = [*below, *above]
    given = f"{len(sizes)} ({_listed(sizes)})"
    raise NoFitError(f"{rule}, got {given}. Add {_listed(more)}, say.", more)


def refuse_no_bend(sizes: Sequence[float], b_crit: float, straight: Straight) -> None:
    """Refuses steps without a bend, which do not determine b_crit.

    Either both straight lines fit, or the curve bends far from all sizes.

    Raises:
        NoFitError: with the sizes to add.
    """
    least, largest = sizes[0], sizes[-1]
    steps = f"the steps at batch sizes {_listed(sizes)}"
    if straight.flat and straight.steep:
        below = _below(least, least / REACH)
        above = _above(largest, largest * REACH)
        more = [*below, *above]
        raise NoFitError(
            f"{steps} show no bend: perfect scaling and constant steps fit as well as any curve "
            f"between. Add the sizes {_listed(more)}, and more seeds.",
            more,
        )
    if b_crit > largest * REACH:
        far = f"b_crit lies far above {largest:g}"
        more = _above(largest, largest * REACH * REACH)
        reason = f"{steps} scale perfectly, without a bend: {far}. {_add(more)}"
        raise NoFitError(reason, more)
    if b_crit < least / REACH:
        far = f"b_crit lies far below {least:g}"
        more = _below(least, least / REACH / REACH)
        reason = f"{steps} do not fall, so there is no bend: {far}. {_add(more)}"
        raise NoFitError(reason, more)


def no_lower_bound(sizes: Sequence[float], b_crit: float, straight: Straight) -> Remedy:
    """Why b_crit has no lower bound, and the sizes that give it one."""
    why = "the sizes do not reach down to b_crit/4"
    if straight.flat:
        why = "constant steps fit as well"
    more = _below(sizes[0], b_crit / REACH)
    return Remedy(f"b_crit has no lower bound: {why}. {_add(more)}", tuple(more))


def no_upper_bound(sizes: Sequence[float], b_crit: float, straight: Straight) -> Remedy:
    """Why b_crit has no upper bound, and the sizes that give it one."""
    why = "the sizes do not reach up to 4 b_crit"
    if straight.steep:
        why = "perfect scaling fits as well"
    more = _above(sizes[-1], b_crit * REACH)
    return Remedy(f"b_crit has no upper bound: {why}. {_add(more)}", tuple(more))


def poor_fit(sizes: Sequence[float], misses: Sequence[float], residual: float) -> Remedy:
    """Where a badly tuned rate is most likely, and what to do there.

    Args:
        sizes: batch sizes.
        misses: measured ln S minus that of the curve, one for each of ``sizes``.
        residual: root mean square of ``misses``.
    """
    distances = list(map(abs, misses))
    worst = distances.index(max(distances))
    side = "below"
    if misses[worst] > 0:
        side = "above"
    distance = abs(math.expm1(misses[worst]))
    off = f"{100 * distance:.0f} % {side}"
    text = (
        f"the curve misses the steps by {100 * residual:.0f} % (rms), so the shape itself is in "
        f"doubt. Batch size {sizes[worst]:g} lies farthest from it ({off}): search the learning "
        "rate there with more trials and in a wider range, and run more seeds."
    )
    return Remedy(text, (sizes[worst],))


def _add(more: Sequence[float]) -> str:
    if not more:
        return "There are no smaller batch sizes to add."
    return f"Add the sizes {_listed(more)}."


def _above(size: float, target: float) -> list[float]:
    """Sizes from above ``size`` until ``target`` is reached, at least one.

    They are a factor 2 apart, or 4 where ``target`` is far.
    """
    factor = 2.0
    if target > 8 * size:
        factor = 4.0
    more = [size * factor]
    while more[-1] < target * BELOW_ONE:
        more.append(more[-1] * factor)
    return more


def _below(size: float, target: float) -> list[float]:
    """The same downwards: integers, ascending; empty where ``size`` is 1."""
    factor = 2.0
    if target < size / 8:
        factor = 4.0
    more: list[float] = []
    least = size
    while least > 1 and (not more or least > target * (1 + 1e-9)):
        least = max(1.0, math.floor(least / factor))
        more.insert(0, least)
    return more


def _listed(sizes: Sequence[float]) -> str:
    return ", ".join([f"{size:.12g}" for size in sizes])
