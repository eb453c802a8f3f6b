"""What an adaptive run used, and what fixed batch sizes would have used for the same progress.

The comparison is by the large-batch model.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from lightning_noise.adapt.cadence import Cadence
from lightning_noise.adapt.step_times import StepTimes
from lightning_noise.core.tradeoff import steps_factor


class Period(NamedTuple):
    """A part of the training at one size, within one epoch.

    ``noise_scale`` is that at its end, or ``None`` where it was not resolved.
    """

    epoch: int
    global_size: float
    steps: int
    examples: float
    noise_scale: float | None


class Use(NamedTuple):
    """Optimizer steps and examples."""

    steps: float
    examples: float


def used(periods: Sequence[Period]) -> Use:
    """What the run used."""
    steps = sum(period.steps for period in periods)
    examples = math.fsum(period.examples for period in periods)
    return Use(steps, examples)


def fixed_use(periods: Sequence[Period], global_size: float) -> Use | None:
    """What a fixed size would have used for the same progress.

    ``None`` where no noise scale was resolved. A step at size B makes the progress of 1/(1 + R/B)
    steps of the largest possible batch, R the noise scale then; summed over the run,
    ``S = ∫(1 + R/B) ds`` and ``E = ∫(R + B) ds`` (McCandlish et al. 2018, section 2.3 and
    appendix D).

    >>> run = [Period(0, 100.0, 20, 2000.0, 100.0), Period(1, 200.0, 12, 2400.0, 400.0)]
    >>> fixed_use(run, 200.0)
    Use(steps=27.0, examples=5400.0)
    """
    steps = []
    for part in _progress(periods):
        steps.append(part.done * steps_factor(global_size, part.noise_scale))
    if not steps:
        return None
    total = math.fsum(steps)
    return Use(total, total * global_size)


def same_examples_size(periods: Sequence[Period]) -> float | None:
    """The fixed size that would have used the same examples for the same progress.

    ``None`` where no noise scale was resolved. From ``E = ∫(R + B) ds`` it is the
    mean size, weighted by progress.

    >>> run = [Period(0, 100.0, 20, 2000.0, 100.0), Period(1, 200.0, 12, 2400.0, 400.0)]
    >>> same_examples_size(run)
    128.57142857142858
    """
    progress = _progress(periods)
    total = math.fsum(part.done for part in progress)
    if not total:
        return None
    weighted = math.fsum(part.done * part.global_size for part in progress)
    return weighted / total


class _Progress(NamedTuple):
    """Steps of the largest possible batch that a period was worth, at its noise scale and size."""

    done: float
    noise_scale: float
    global_size: float


def _progress(periods: Sequence[Period]) -> list[_Progress]:
    """An unresolved period takes the noise scale before it, or the next one after it."""
    resolved = [period.noise_scale for period in periods if _is_resolved(period)]
    latest = None
    if resolved:
        latest = resolved[0]
    found = []
    for period in periods:
        if _is_resolved(period):
            latest = period.noise_scale
        if latest is not None and period.steps and period.examples > 0:
            size = period.examples / period.steps
            done = period.steps / steps_factor(size, latest)
            found.append(_Progress(done, latest, size))
    return found


def _is_resolved(period: Period) -> bool:
    return period.noise_scale is not None and period.noise_scale > 0


def summary(
    periods: Sequence[Period],
    rate_factor: float,
    unit: str = "examples",
) -> list[str]:
    """The run in a few lines: sizes by epoch, what was used, what fixed sizes would have used.

    Args:
        periods: of the run, oldest first.
        rate_factor: on the learning rate at the end.
        unit: what batch sizes count.

    >>> run = [Period(0, 100.0, 20, 2000.0, 100.0), Period(1, 200.0, 12, 2400.0, 400.0)]
    >>> for line in summary(run, 1.5):
    ...     print(line)
    adaptive batch size: 100 (epoch 0), 200 (epoch 1); 32 steps, 4400 examples, learning-rate \
factor 1.5 at the end
    by the model the same progress costs a fixed 100: 40 steps, 4000 examples; a fixed 200: 27 \
steps, 5400 examples
    a fixed 129, with the same examples: 34 steps; adapting took 6 % fewer steps
    """
    if not periods:
        return []
    total = used(periods)
    sizes = ", ".join(_stretches(periods))
    rate = f"learning-rate factor {rate_factor:.3g} at the end"
    first = f"adaptive batch size: {sizes}; {_in_words(total, unit)}, {rate}"
    return [first, *_against_fixed_sizes(periods, total, unit)]


def clock_lines(times: StepTimes, cadence: Cadence = Cadence()) -> list[str]:
    """The measured step times, how often steps were measured, and the pair that makes decisions
    independent of the clock.

    >>> times = StepTimes().adding(16, [0.08] * 5).adding(32, [0.096] * 5)
    >>> for line in clock_lines(times):
    ...     print(line)
    median step times: 16: 80 ms, 32: 96 ms
    to decide without the clock, which differs from run to run: LeastTime(step_time=(0.064, 0.001))
    """
    medians = []
    for size in times.sizes:
        found = times.at(size)
        if found is not None:
            medians.append(f"{size:.0f}: {1000 * found.median:.3g} ms")
    if not medians:
        return []
    lines = [f"median step times: {', '.join(medians)}"]
    if cadence.every > 1 and cadence.ratio is not None:
        longer = f"a measured step takes {cadence.ratio:.3g} times as long"
        lines.append(f"one of every {cadence.every} steps is measured, since {longer}")
    line = times.line()
    if line is None:
        return lines
    pair = f"LeastTime(step_time=({line.fixed:.3g}, {line.per_example:.3g}))"
    if cadence.every > 1:
        pair += f", with every_n_steps={cadence.every}"
    lines.append(f"to decide without the clock, which differs from run to run: {pair}")
    return lines


def _in_words(use: Use, unit: str) -> str:
    return f"{use.steps:.0f} steps, {use.examples:.0f} {unit}"


def _against_fixed_sizes(periods: Sequence[Period], total: Use, unit: str) -> list[str]:
    """Beside the first and the last size, and the size that uses the same examples."""
    sizes = sorted({periods[0].global_size, periods[-1].global_size})
    costs = []
    for size in sizes:
        use = fixed_use(periods, size)
        if use is not None:
            costs.append(f"a fixed {size:.0f}: {_in_words(use, unit)}")
    if len(costs) < 2:
        return []
    model = f"by the model the same progress costs {'; '.join(costs)}"
    return [model, *_against_same_examples(periods, total, unit)]


def _against_same_examples(periods: Sequence[Period], total: Use, unit: str) -> list[str]:
    size = same_examples_size(periods)
    if size is None:
        return []
    use = fixed_use(periods, size)
    if use is None:
        return []
    fixed = f"a fixed {size:.0f}, with the same {unit}: {use.steps:.0f} steps"
    return [f"{fixed}; adapting took {_compared(total.steps, use.steps)}"]


def _compared(steps: float, fixed_steps: float) -> str:
    """Optimizer steps compared with those of a fixed size, in words.

    >>> _compared(94.0, 100.0), _compared(106.0, 100.0), _compared(100.1, 100.0)
    ('6 % fewer steps', '6 % more steps', 'as many steps')
    """
    percent = round(100 * (steps / fixed_steps - 1))
    if percent > 0:
        return f"{percent} % more steps"
    if percent < 0:
        return f"{-percent} % fewer steps"
    return "as many steps"


def _stretches(periods: Sequence[Period]) -> list[str]:
    """Sizes with the epochs in which they were used, neighbours of one size together."""
    stretches = []
    for size, together in groupby(periods, key=lambda period: period.global_size):
        epochs = [period.epoch for period in together]
        first, last = epochs[0], epochs[-1]
        when = f"epochs {first}–{last}"
        if first == last:
            when = f"epoch {first}"
        stretches.append(f"{size:.0f} ({when})")
    return stretches
