"""What an adaptive run used, and what fixed batch sizes would have used for the same progress, by the large-batch model."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_noise.core.tradeoff import steps_factor


class Period(NamedTuple):
    """A stretch of training at one size, within ``epoch``; ``b_simple`` is the noise scale at its end."""

    epoch: int
    global_size: float
    steps: int
    examples: float
    b_simple: float | None


class Use(NamedTuple):
    """Optimizer steps and examples."""

    steps: float
    examples: float


def used(periods: Sequence[Period]) -> Use:
    """What the run used."""
    return Use(sum(p.steps for p in periods), math.fsum(p.examples for p in periods))


def fixed_use(periods: Sequence[Period], global_size: float) -> Use | None:
    """What a fixed size would have used for the same progress; ``None`` where no noise scale was resolved.

    A step at size B makes the progress of 1/(1 + R/B) steps of the largest possible batch, R the noise scale then; summed over
    the run, ``S = ∫(1 + R/B) ds`` and ``E = ∫(R + B) ds`` (McCandlish et al. 2018, section 2.3 and appendix D).

    >>> run = [Period(0, 100.0, 20, 2000.0, 100.0), Period(1, 200.0, 12, 2400.0, 400.0)]
    >>> fixed_use(run, 200.0)
    Use(steps=27.0, examples=5400.0)
    """
    progress = _progress(periods)
    if not progress:
        return None
    steps = math.fsum(done * steps_factor(global_size, b) for done, b, _ in progress)
    return Use(steps, steps * global_size)


def same_examples_size(periods: Sequence[Period]) -> float | None:
    """The fixed size that would have used the same examples for the same progress; ``None`` where no noise scale was resolved.

    From ``E = ∫(R + B) ds`` it is the mean size, weighted by progress.

    >>> same_examples_size([Period(0, 100.0, 20, 2000.0, 100.0), Period(1, 200.0, 12, 2400.0, 400.0)])
    128.57142857142858
    """
    progress = _progress(periods)
    total = math.fsum(done for done, _, _ in progress)
    return math.fsum(done * size for done, _, size in progress) / total if total else None


def _progress(periods: Sequence[Period]) -> list[tuple[float, float, float]]:
    """(progress, noise scale, size) of each period; an unresolved one takes the value before it, else the next after it."""
    known = [p.b_simple for p in periods if p.b_simple is not None and p.b_simple > 0]
    found, latest = [], known[0] if known else None
    for period in periods:
        latest = period.b_simple if period.b_simple is not None and period.b_simple > 0 else latest
        if latest is not None and period.steps and period.examples > 0:
            size = period.examples / period.steps
            found.append((period.steps / steps_factor(size, latest), latest, size))
    return found


def tell(periods: Sequence[Period], factor: float, unit: str = "examples") -> list[str]:
    """The story in a few lines: sizes by epoch, what was used, what fixed sizes would have used.

    >>> run = [Period(0, 100.0, 20, 2000.0, 100.0), Period(1, 200.0, 12, 2400.0, 400.0)]
    >>> print("\\n".join(tell(run, 1.5)))
    adaptive batch size: 100 (epoch 0), 200 (epoch 1); 32 steps, 4400 examples, learning-rate factor 1.5 at the end
    by the model the same progress costs a fixed 100: 40 steps, 4000 examples; a fixed 200: 27 steps, 5400 examples
    a fixed 129, with the same examples: 34 steps; adapting took -6 % steps
    """
    if not periods:
        return []
    total = used(periods)
    lines = [
        f"adaptive batch size: {', '.join(_stretches(periods))}; {total.steps:.0f} steps, {total.examples:.0f} {unit}, "
        f"learning-rate factor {factor:.3g} at the end"
    ]
    sizes = sorted({periods[0].global_size, periods[-1].global_size})
    costs = [(size, fixed_use(periods, size)) for size in sizes]
    said = [f"a fixed {size:.0f}: {use.steps:.0f} steps, {use.examples:.0f} {unit}" for size, use in costs if use is not None]
    if len(said) > 1:
        lines.append(f"by the model the same progress costs {'; '.join(said)}")
        lines += _against_same_examples(periods, total, unit)
    return lines


def _against_same_examples(periods: Sequence[Period], total: Use, unit: str) -> list[str]:
    size = same_examples_size(periods)
    use = None if size is None else fixed_use(periods, size)
    if size is None or use is None:
        return []
    change = 100 * (total.steps / use.steps - 1)
    return [f"a fixed {size:.0f}, with the same {unit}: {use.steps:.0f} steps; adapting took {change:+.0f} % steps"]


def _stretches(periods: Sequence[Period]) -> list[str]:
    """Sizes with the epochs at which they held, neighbours of one size together."""
    found: list[tuple[float, int, int]] = []
    for period in periods:
        if found and found[-1][0] == period.global_size:
            found[-1] = (period.global_size, found[-1][1], period.epoch)
        else:
            found.append((period.global_size, period.epoch, period.epoch))
    return [f"{size:.0f} ({f'epoch {a}' if a == b else f'epochs {a}–{b}'})" for size, a, b in found]
