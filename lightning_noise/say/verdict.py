"""The few lines that a run ends with: the noise scale, what the batch size in use costs, and every
reason for doubt.
"""

from typing import NamedTuple

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import LARGE_SHARE, LEAST_N_EFF, NoiseEstimate, steps_to_resolve
from lightning_noise.core.tradeoff import examples_factor, gain, steps_factor
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.core.windows import SHORT_DECAYS
from lightning_noise.say.words import count
from lightning_noise.say.words import number as number

WHILE_HIGH = "while the learning rate was at least a third of its peak"


class Verdict(NamedTuple):
    """What a run says about its batch size, as data; ``str()`` of it is what is printed at the end.

    Args:
        estimate: the estimate at the end.
        average: the running average behind it.
        trajectory: first, mean and last resolved values.
        probe: the name of the probe.
        groups: what its groups were, in words.
        global_size: units that one optimizer step uses.
        learning_rate: at the end.
        data_size: units in the finite data set, where it has been seen whole.
        skipped: skipped steps, by reason.
        twins: two ranks that were caught with the same examples.
        warnings: more reasons for doubt, from the set-up.
        unit: what is counted.
        geometries: lines on noise scales in other metrics.
        optimizer: its name, where there are several.
        story: what adapting the batch size did, in lines.
    """

    estimate: NoiseEstimate
    average: RunningAverage
    trajectory: Trajectory
    probe: str
    groups: str
    global_size: float | None
    learning_rate: float
    data_size: float | None
    skipped: dict[str, int]
    twins: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    unit: str = "examples"
    geometries: tuple[str, ...] = ()
    optimizer: str = ""
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return _text(self)


def _text(findings: Verdict) -> str:
    """The verdict as text; its first line begins ``noise scale: b_simple``."""
    of = f"of {findings.optimizer} " if findings.optimizer else ""
    lines = [f"noise scale: b_simple {of}{_values(findings)}", *_costs(findings)]
    lines += findings.geometries
    steps = findings.estimate.steps
    measured = "1 step measured" if steps == 1 else f"{steps} steps measured"
    lines.append(f"probe {findings.probe}: {findings.groups}; {measured}")
    lines += findings.story
    lines += [f"warning: {text}" for text in cautions(findings)]
    return "\n  ".join(lines)


def _values(findings: Verdict) -> str:
    trajectory, estimate, unit = findings.trajectory, findings.estimate, findings.unit
    if trajectory.first is None or trajectory.mean is None:
        return f"{_at_end(estimate)} ({unit})"
    first = trajectory.first
    average, end = f"{number(trajectory.mean)} on average", f"{_at_end(estimate)} at the end"
    if trajectory.has_decayed:
        average += f" {WHILE_HIGH}"
        rate = number(trajectory.last_rate)
        end += f", at a learning rate of {rate}, which makes the noise scale large"
    return (
        f"{number(first.noise_scale)} [{number(first.low)}, {number(first.high)}] at the start "
        f"(measured step {first.step}), "
        f"{average}, {end} ({unit}, 95 % interval)"
    )


def _at_end(estimate: NoiseEstimate) -> str:
    if estimate.noise_scale is not None:
        return f"{number(estimate.noise_scale)} [{number(estimate.low)}, {number(estimate.high)}]"
    if estimate.low is not None:
        return f"not resolved, at least {number(estimate.low)}"
    return "not measured yet"


class _Basis(NamedTuple):
    """What the costs are computed from, and how it is named."""

    size: float | None
    b_simple: float | None
    low: float | None
    used: str


def _basis(findings: Verdict) -> _Basis:
    """The end of the run, or the end of its part with a high learning rate where the rate has
    decayed since.
    """
    way, estimate, size = findings.trajectory, findings.estimate, findings.global_size
    if not way.has_decayed or way.high.end is None or size is None:
        used = f"batch size in use {number(size)} at learning rate {number(findings.learning_rate)}"
        return _Basis(size, estimate.noise_scale, estimate.low, used)
    step, b_simple, low, high = way.high.end
    size = way.high.size or size
    value = f"not resolved, at least {number(low)}" if low else "not measured"
    if b_simple is not None:
        value = f"{number(b_simple)} [{number(low)}, {number(high)}]"
    used = (
        f"batch size in use {number(size)} {WHILE_HIGH}, that is until measured step {step}, where "
        f"the noise scale was {value}"
    )
    return _Basis(size, b_simple, low, used)


def _costs(findings: Verdict) -> list[str]:
    size, b, low, used = _basis(findings)
    if size is None:
        return []
    mean = findings.trajectory.mean
    if b is None and mean is not None and mean >= (low or 0.0):  # else the bound says more
        b = mean
        used += f"; with the average of {number(b)}"
    if b is None or b <= 0:
        at_least = ""
        if low:
            steps = number(steps_factor(size, low))
            at_least = f": at least {steps} times the minimum number of steps"
        return [used + at_least]
    steps, examples = number(steps_factor(size, b)), number(examples_factor(size, b))
    cost = (
        f"{steps} times the minimum number of steps, {examples} times the minimum number of "
        "examples"
    )
    return [
        f"{used}: {cost}",
        f"{_change(b, size, size / 2, 'halving')}; {_change(b, size, size * 2, 'doubling')}",
    ]


def _change(b: float, old: float, new: float, word: str) -> str:
    steps = 1 / gain(b, old, new)
    examples = examples_factor(new, b) / examples_factor(old, b)
    return f"{word} it: {_percent(steps)} steps, {_percent(examples)} examples"


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):+.0f} %"


def cautions(findings: Verdict) -> list[str]:
    """Every warning that bears on the number."""
    estimate, average, unit = findings.estimate, findings.average, findings.unit
    found = []
    if estimate.steps and average.n_eff < LEAST_N_EFF:
        found.append("an interval needs five measured steps")
    elif not estimate.steps and not findings.skipped:
        found.append("no call of the optimizer's step was seen, so nothing was measured")
    elif not estimate.resolved and estimate.steps and not findings.trajectory.has_decayed:
        found.append(
            f"|G|² is not resolved from zero at the end, so there is no upper bound; "
            f"{_until_resolved(average)}"
        )
    if average.n_eff >= LEAST_N_EFF and average.dominance > 1 / 3:
        found.append(
            f"one step holds {100 * average.dominance:.0f} % of the second moment of the trace: "
            f"rare, very large "
            f"{unit} rule the average, and no interval can be trusted"
        )
    if (
        findings.data_size
        and estimate.low is not None
        and estimate.low > findings.data_size * LARGE_SHARE
    ):
        found.append(
            f"b_simple is of the order of the data set ({number(findings.data_size)} {unit}) or "
            f"larger: the gradient of the "
            "whole data set is nearly zero, and the number says nothing about new data"
        )
    if findings.twins is not None:
        found.append(twins_text(findings.twins))
    for reason, times in sorted(findings.skipped.items()):
        found.append(f"skipped {count(times, 'step')}: {reason}")
    return [*found, *findings.warnings]


def optimizer_line(estimate: NoiseEstimate) -> str:
    """On the noise scale in the optimizer's metric."""
    return f"in the metric of the optimizer: b_optimizer {_at_end(estimate)}"


def curvature_line(geometry: str, average: CurvatureAverage) -> str:
    """On a noise scale in a metric of curvature, or why there is none."""
    estimate, name = average.estimate(), "b_noise" if geometry == "hessian" else f"b_{geometry}"
    seen = f"{average.probes} probes"
    if average.indefinite:
        seen += f", {100 * average.indefinite:.0f} % of them met a curvature <= 0"
    parts = f"GᵀHG {estimate.signal:.3g}, tr(HΣ) {estimate.noise:.3g}"
    if average.average.n_eff >= LEAST_N_EFF and estimate.low is None:
        return f"{geometry}: {name} is not defined or not resolved here ({parts}; {seen})"
    eps, dl = average.eps_max(), average.dl_max()
    more = (
        ""
        if eps is None
        else f", eps_max {number(eps.value)} [{number(eps.low)}, {number(eps.high)}]"
    )
    more += (
        "" if dl is None else f", dl_max {number(dl.value)} [{number(dl.low)}, {number(dl.high)}]"
    )
    return f"{geometry}: {name} {_at_end(estimate)}{more} ({seen})"


def twins_text(twins: tuple[int, int]) -> str:
    """What is wrong when two ranks had gradient norms that are equal to the last bit, and what to
    look at.
    """
    return (
        f"ranks {twins[0]} and {twins[1]} drew the same examples (equal gradient norms), so their "
        f"gradients are not "
        "independent and the number is wrong: is a DistributedSampler missing, or every rank "
        "seeded alike?"
    )


def _until_resolved(average: RunningAverage) -> str:
    wait = steps_to_resolve(average)
    if wait is None:
        return "no forecast of when it will be"
    if average.decay in SHORT_DECAYS:
        return (
            "the noise scale has changed lately, so that only the last steps count: it takes about "
            f"{number(wait)} steps without such a change"
        )
    window = (1 + average.decay) / (1 - average.decay) if average.decay < 1 else float("inf")
    if wait > window:
        return (
            f"that takes an average over about {number(wait)} steps like these: raise decay, or "
            "use larger batches"
        )
    return (
        f"about {number(wait)} steps like these resolve it"
        if wait > average.n_eff
        else "a few more steps may resolve it"
    )
