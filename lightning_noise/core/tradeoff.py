"""The large-batch model of McCandlish et al. 2018, section 2.

It gives what a batch size costs at a noise scale ``b``. All batch sizes and noise scales are in the
same unit, examples (or whatever the batch dimension counts).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_noise.core.checks import check_positive


class FrontierPoint(NamedTuple):
    """One point of the Pareto frontier between steps and examples.

    Both are relative to their minimum.
    """

    global_size: float
    steps_factor: float
    examples_factor: float


def steps_factor(global_size: float, b: float) -> float:
    """S/S_min = 1 + b/B: optimizer steps relative to the least possible (eq. 2.7 and section 2.3).

    Raises:
        ValueError: an argument is not a finite positive number, as in all functions of this module.

    >>> [steps_factor(size, 1000) for size in (250, 1000, 4000)]
    [5.0, 2.0, 1.25]
    """
    check_positive(global_size=global_size, b=b)
    return 1 + b / global_size


def examples_factor(global_size: float, b: float) -> float:
    """E/E_min = 1 + B/b: examples processed relative to the least possible.

    >>> [examples_factor(size, 1000) for size in (250, 1000, 4000)]
    [1.25, 2.0, 5.0]
    """
    check_positive(global_size=global_size, b=b)
    return 1 + global_size / b


def eps_opt(global_size: float, b: float, eps_max: float) -> float:
    """Best learning rate of plain SGD, eps_max / (1 + b/B) (eq. 2.6), in the unit of ``eps_max``.

    >>> eps_opt(2.8, 2.8, 0.4)
    0.2
    """
    check_positive(eps_max=eps_max)
    return eps_max / steps_factor(global_size, b)


def dl_opt(global_size: float, b: float, dl_max: float) -> float:
    """Best expected decrease of the loss in one step, dl_max / (1 + b/B) (eq. 2.7).

    It is in the unit of the loss.

    >>> dl_opt(2.8, 2.8, 0.4)
    0.2
    """
    check_positive(dl_max=dl_max)
    return dl_max / steps_factor(global_size, b)


def gain(b: float, old: float, new: float) -> float:
    """How much more one step achieves at batch size ``new`` than at ``old``.

    The gain is (1 + b/old)/(1 + b/new). It is the AdaScale gain ratio (Johnson et al. 2020, arXiv
    2007.05105) and lies between 1 and new/old.

    >>> gain(1000, 1000, 4000)
    1.6
    """
    check_positive(old=old, new=new)
    return steps_factor(old, b) / steps_factor(new, b)


def exchange_rate_size(rate: float, b: float) -> float:
    """Batch size at which one more step is worth ``rate`` examples: sqrt(rate · b) (eq. D.3).

    >>> exchange_rate_size(400, 100)
    200.0
    """
    check_positive(rate=rate, b=b)
    return math.sqrt(rate * b)


def time_cost(step_time: float, b: float, global_size: float) -> float:
    """Time for the progress of one step of the largest possible batch: t(B)(1 + b/B).

    With ``t(B) = fixed + per_example · B`` it is least at ``exchange_rate_size(fixed/per_example,
    b)``.

    Args:
        step_time: of a step at ``global_size``, in any unit.
        b: noise scale.
        global_size: examples of a step.

    >>> [time_cost(64 + size, 400, size) for size in (16, 160, 512)]
    [2080.0, 784.0, 1026.0]
    >>> exchange_rate_size(64, 400)
    160.0
    """
    check_positive(step_time=step_time)
    return step_time * steps_factor(global_size, b)


def frontier(b: float, sizes: Iterable[float]) -> list[FrontierPoint]:
    """The frontier (S/S_min − 1)(E/E_min − 1) = 1 at the given batch sizes (eq. 2.11).

    >>> frontier(1000, [250])
    [FrontierPoint(global_size=250, steps_factor=5.0, examples_factor=1.25)]
    """
    points = []
    for size in sizes:
        point = FrontierPoint(
            global_size=size,
            steps_factor=steps_factor(size, b),
            examples_factor=examples_factor(size, b),
        )
        points.append(point)
    return points


def gamma(bs: Sequence[float]) -> float:
    """What an adaptive batch could gain on a run: (Σ sqrt(b))² / (n Σ b) <= 1 (appendix D).

    1 means that there is nothing to gain.

    Args:
        bs: noise scales at equally spaced moments of the run, in progress made (steps of the
            largest possible batch).

    >>> gamma([100.0, 100.0]), round(gamma([1.0, 10000.0]), 3)
    (1.0, 0.51)
    """
    if len(bs) == 0:
        raise ValueError("bs must hold at least one noise scale, got none.")
    for value in bs:
        check_positive(bs=value)
    sum_of_roots = math.fsum(map(math.sqrt, bs))
    return sum_of_roots**2 / (len(bs) * math.fsum(bs))
