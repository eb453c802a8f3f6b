"""Reasons to doubt a noise scale, in words."""

import math

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import LARGE_SHARE, LEAST_N_EFF, NoiseEstimate, steps_to_resolve
from lightning_noise.core.windows import SHORT_DECAYS
from lightning_noise.say.words import number


def is_disowned(estimate: NoiseEstimate, data_size: float | None) -> bool:
    """Whether the noise scale is of the order of the data set or larger."""
    if not data_size or estimate.low is None:
        return False
    return estimate.low > data_size * LARGE_SHARE


def disowned_text(data_size: float, unit: str) -> str:
    """What it means that the noise scale is of the order of the data set."""
    data = f"the data set ({number(data_size)} {unit})"
    return (
        f"b_simple is of the order of {data} or larger: the gradient over the entire data set "
        "is nearly zero, and the noise scale says nothing about new data"
    )


def dominance_text(average: RunningAverage, unit: str) -> str:
    """That one step dominates the average; "" where none does."""
    if average.n_eff < LEAST_N_EFF or average.dominance <= 1 / 3:
        return ""
    return (
        f"one step holds {100 * average.dominance:.0f} % of the second moment of the trace: "
        f"rare, very large {unit} dominate the average, and the interval is unreliable"
    )


def twins_text(twins: tuple[int, int]) -> str:
    """What it means that two ranks had gradient norms equal to the last bit, and what to check."""
    first, second = twins
    return (
        f"ranks {first} and {second} drew the same examples (equal gradient norms), so their "
        "gradients are not independent and the number is wrong: is a DistributedSampler missing, "
        "or every rank seeded alike?"
    )


def until_resolved(average: RunningAverage) -> str:
    """How long it takes until the noise scale has an upper bound, and what helps."""
    wait = steps_to_resolve(average)
    if wait is None:
        return "no forecast of when it will be"
    steps = f"about {number(wait)} steps"
    if average.decay in SHORT_DECAYS:
        changed = "the noise scale has changed lately, so that only the last steps count"
        return f"{changed}: it takes {steps} without such a change"
    window = math.inf
    if average.decay < 1:
        window = (1 + average.decay) / (1 - average.decay)
    if wait > window:
        fix = "raise decay, or use larger batches"
        return f"that takes an average over {steps} like these: {fix}"
    if wait > average.n_eff:
        return f"{steps} like these resolve it"
    return "a few more steps may resolve it"
