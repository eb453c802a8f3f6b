"""The few lines that a run ends with.

They report the noise scale, what the current batch size costs, and every reason for doubt.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import LARGE_SHARE, LEAST_N_EFF, NoiseEstimate, steps_to_resolve
from lightning_noise.core.reasons import Reason
from lightning_noise.core.tradeoff import examples_factor, gain, steps_factor
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.core.windows import SHORT_DECAYS
from lightning_noise.say.left_out import left_out_line
from lightning_noise.say.log_keys import name_of
from lightning_noise.say.words import count
from lightning_noise.say.words import number as number

WHILE_HIGH = "while the learning rate was at least a third of its peak"


class Verdict(NamedTuple):
    """What a run measured about its batch size, as data; ``str()`` of it is printed at the end.

    Args:
        estimate: the estimate at the end.
        average: the running average behind it.
        trajectory: first, mean and last resolved values.
        probe: the name of the probe.
        groups: what its groups were, in words.
        global_size: units that one optimizer step uses.
        learning_rate: at the end.
        data_size: units in the finite data set, where all of it has been seen.
        skipped: skipped steps, by reason.
        twins: two ranks that were found to have the same examples.
        warnings: more reasons for doubt, from the set-up.
        unit: what is counted.
        geometries: lines on noise scales in other metrics.
        optimizer: its name, where there are several.
        story: what adapting the batch size did, in lines.
        left_out: share of the squared gradient norm that the number does not cover; ``None`` where
            it is not known.
    """

    estimate: NoiseEstimate
    average: RunningAverage
    trajectory: Trajectory
    probe: str
    groups: str
    global_size: float | None
    learning_rate: float
    data_size: float | None
    skipped: Mapping[Reason, int]
    twins: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    unit: str = "examples"
    geometries: tuple[str, ...] = ()
    optimizer: str = ""
    story: tuple[str, ...] = ()
    left_out: float | None = 0.0

    def __str__(self) -> str:
        return _text(self)


def _text(findings: Verdict) -> str:
    """The verdict as text; its first line begins ``noise scale: b_simple``."""
    name = "b_simple"
    if findings.optimizer:
        name = f"b_simple of {findings.optimizer}"
    lines = [f"noise scale: {name} {_values(findings)}"]
    lines += _costs(findings)
    lines += findings.geometries
    steps = count(findings.estimate.steps, "step")
    lines.append(f"probe {findings.probe}: {findings.groups}; {steps} measured")
    lines += findings.story
    for text in cautions(findings):
        lines.append(f"warning: {text}")
    return "\n  ".join(lines)


def _values(findings: Verdict) -> str:
    trajectory = findings.trajectory
    end = _at_end(findings.estimate)
    if trajectory.first is None or trajectory.mean is None:
        return f"{end} ({findings.unit})"
    first = trajectory.first
    start = _with_interval(first.noise_scale, first.low, first.high)
    start += f" at the start (measured step {first.step})"
    average = f"{number(trajectory.mean)} on average"
    end += " at the end"
    if trajectory.has_decayed:
        average += f" {WHILE_HIGH}"
        rate = number(trajectory.last_rate)
        end += f", at a learning rate of {rate}, which makes the noise scale large"
    return f"{start}, {average}, {end} ({findings.unit}, 95 % interval)"


def _at_end(estimate: NoiseEstimate) -> str:
    if estimate.noise_scale is not None:
        return _with_interval(estimate.noise_scale, estimate.low, estimate.high)
    if estimate.low is not None:
        return f"not resolved, at least {number(estimate.low)}"
    return "not measured yet"


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{number(value)} [{number(low)}, {number(high)}]"


class _Basis(NamedTuple):
    """What the costs are computed from, and how it is named."""

    size: float | None
    b_simple: float | None
    low: float | None
    used: str


def _basis(findings: Verdict) -> _Basis:
    """The end of the run.

    Where the learning rate has decayed, it is the end of the part in which the rate was high.
    """
    high_part = findings.trajectory.high
    size = findings.global_size
    if not findings.trajectory.has_decayed or high_part.end is None or size is None:
        rate = number(findings.learning_rate)
        used = f"batch size {number(size)} at learning rate {rate}"
        return _Basis(
            size=size,
            b_simple=findings.estimate.noise_scale,
            low=findings.estimate.low,
            used=used,
        )
    step, b_simple, low, high = high_part.end
    size = high_part.size or size
    value = "not measured"
    if b_simple is not None:
        value = _with_interval(b_simple, low, high)
    elif low:
        value = f"not resolved, at least {number(low)}"
    used = (
        f"batch size {number(size)} {WHILE_HIGH}, that is until measured step {step}, where the "
        f"noise scale was {value}"
    )
    return _Basis(
        size=size,
        b_simple=b_simple,
        low=low,
        used=used,
    )


def _costs(findings: Verdict) -> list[str]:
    size, b, low, used = _basis(findings)
    if size is None:
        return []
    mean = findings.trajectory.mean
    if b is None and mean is not None and mean >= (low or 0.0):  # otherwise the bound says more
        b = mean
        used += f"; with the average of {number(b)}"
    if b is None or b <= 0:
        if not low:
            return [used]
        steps = number(steps_factor(size, low))
        return [f"{used}: at least {steps} times the minimum number of steps"]
    steps = number(steps_factor(size, b))
    examples = number(examples_factor(size, b))
    halving = _change(b, size, size / 2)
    doubling = _change(b, size, size * 2)
    return [
        f"{used}: {steps} times the minimum number of steps, {examples} times the minimum number "
        "of examples",
        f"halving it: {halving}; doubling it: {doubling}",
    ]


def _change(b: float, old: float, new: float) -> str:
    steps = 1 / gain(b, old, new)
    examples = examples_factor(new, b) / examples_factor(old, b)
    return f"{_percent(steps)} steps, {_percent(examples)} examples"


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):+.0f} %"


def cautions(findings: Verdict) -> list[str]:
    """Every warning that bears on the noise scale."""
    found = [*_about_interval(findings), *_about_data(findings)]
    if findings.twins is not None:
        found.append(twins_text(findings.twins))
    if findings.left_out != 0.0:
        found.append(left_out_line(findings.estimate, findings.global_size, findings.left_out))
    by_text = sorted(findings.skipped, key=lambda reason: reason.text)
    for reason in by_text:
        times = count(findings.skipped[reason], "step")
        found.append(f"skipped {times}: {reason.text}")
    found += findings.warnings
    return found


def _about_interval(findings: Verdict) -> Iterator[str]:
    estimate = findings.estimate
    average = findings.average
    if estimate.steps and average.n_eff < LEAST_N_EFF:
        yield "an interval needs five measured steps"
    elif not estimate.steps and not findings.skipped:
        yield "no call of the optimizer's step was seen, so nothing was measured"
    elif not estimate.resolved and estimate.steps and not findings.trajectory.has_decayed:
        unresolved = "|G|² is not resolved from zero at the end, so there is no upper bound"
        yield f"{unresolved}; {_until_resolved(average)}"
    if average.n_eff >= LEAST_N_EFF and average.dominance > 1 / 3:
        yield (
            f"one step holds {100 * average.dominance:.0f} % of the second moment of the trace: "
            f"rare, very large {findings.unit} dominate the average, and the interval is unreliable"
        )


def _about_data(findings: Verdict) -> Iterator[str]:
    low = findings.estimate.low
    if not findings.data_size or low is None:
        return
    if low > findings.data_size * LARGE_SHARE:
        data = f"the data set ({number(findings.data_size)} {findings.unit})"
        yield (
            f"b_simple is of the order of {data} or larger: the gradient over the entire data set "
            "is nearly zero, and the noise scale says nothing about new data"
        )


def optimizer_line(estimate: NoiseEstimate) -> str:
    """The line about the noise scale in the optimizer's metric."""
    return f"in the metric of the optimizer: b_optimizer {_at_end(estimate)}"


def curvature_line(geometry: str, average: CurvatureAverage) -> str:
    """The line about a noise scale in a metric of curvature, or why there is none."""
    estimate = average.estimate()
    name = name_of(geometry)
    seen = f"{average.probes} probes"
    if average.indefinite:
        seen += f", {100 * average.indefinite:.0f} % of them met a curvature <= 0"
    if average.average.n_eff >= LEAST_N_EFF and estimate.low is None:
        parts = f"GᵀHG {estimate.signal:.3g}, tr(HΣ) {estimate.noise:.3g}"
        return f"{geometry}: {name} is not defined or not resolved here ({parts}; {seen})"
    values = [_at_end(estimate)]
    eps_max = average.eps_max()
    if eps_max is not None:
        values.append(f"eps_max {_with_interval(*eps_max)}")
    dl_max = average.dl_max()
    if dl_max is not None:
        values.append(f"dl_max {_with_interval(*dl_max)}")
    return f"{geometry}: {name} {', '.join(values)} ({seen})"


def twins_text(twins: tuple[int, int]) -> str:
    """What it means that two ranks had gradient norms equal to the last bit, and what to check."""
    first, second = twins
    return (
        f"ranks {first} and {second} drew the same examples (equal gradient norms), so their "
        "gradients are not independent and the number is wrong: is a DistributedSampler missing, "
        "or every rank seeded alike?"
    )


def _until_resolved(average: RunningAverage) -> str:
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
