"""The few lines that a run ends with.

The first ones answer whether the batch size is right and what to do about it. Then come the noise
scale, what the batch size costs, and every reason for doubt.
"""

from collections.abc import Iterator, Mapping
from html import escape
from types import MappingProxyType
from typing import NamedTuple

from lightning_noise.core.advice import Advice, advise
from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import LEAST_N_EFF, NoiseEstimate
from lightning_noise.core.reasons import Reason
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.say.advice_text import Context, advice_lines
from lightning_noise.say.doubts import (
    disowned_text,
    dominance_text,
    is_disowned,
    twins_text,
    until_resolved,
)
from lightning_noise.say.left_out import left_out_line
from lightning_noise.say.values import (
    AGREEMENT,
    WHILE_HIGH,
    Basis,
    basis_of,
    cost_line,
    in_a_sentence,
    value_line,
)
from lightning_noise.say.words import count

TOO_WIDE = "The interval is too wide: train longer, or raise decay."
UNRESOLVED = "|G|² is not resolved from zero at the end, so there is no upper bound"


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
        rate_exponent: exponent of the large-batch model's rule for the learning rate: 1 for SGD,
            1/2 for optimizers of the Adam kind.
        seconds: of an optimizer step by batch size, where an adaptive batch size timed it.
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
    rate_exponent: float = 1.0
    seconds: Mapping[float, float] = MappingProxyType({})

    @property
    def basis(self) -> Basis | None:
        """The part of the run that the advice rests on; ``None`` without a batch size."""
        return basis_of(self.trajectory, self.estimate, self.global_size, self.learning_rate)

    @property
    def advice(self) -> Advice | None:
        """What to do about the batch size; ``None`` where the batch size is not known.

        A noise scale of the order of the data set supports no advice.
        """
        basis = self.basis
        if basis is None:
            return None
        if is_disowned(self.estimate, self.data_size):
            return advise(basis.size, None, None, None)
        return advise(basis.size, basis.b, basis.low or None, basis.high)

    def __str__(self) -> str:
        return "\n  ".join([*headline(self), *details(self)])

    def _repr_html_(self) -> str:
        """For notebooks: the advice in bold, the details as a list."""
        first = "<br>".join(map(escape, headline(self)))
        items = "".join(f"<li>{escape(line)}</li>" for line in details(self))
        return f"<p><b>{first}</b></p><ul>{items}</ul>"


def headline(verdict: Verdict) -> list[str]:
    """Whether the batch size is right, and what to do; empty where no batch size is known."""
    advice, basis = verdict.advice, verdict.basis
    if advice is None or basis is None:
        return []
    part = ""
    if basis.step is not None:
        part = f" {WHILE_HIGH}"
    context = Context(
        interval=in_a_sentence(basis.b, basis.low or None, basis.high),
        part=part,
        unit=verdict.unit,
        rate_exponent=verdict.rate_exponent,
        help=_help(verdict),
        seconds=verdict.seconds,
    )
    lines = advice_lines(advice, context)
    if verdict.optimizer:
        lines[0] = f"{verdict.optimizer}: {lines[0]}"
    return lines


def _help(verdict: Verdict) -> str:
    """What would make an advice possible, where there is none."""
    if verdict.data_size and is_disowned(verdict.estimate, verdict.data_size):
        text = disowned_text(verdict.data_size, verdict.unit)
        return f"{text[0].upper()}{text[1:]}. Judge it by the validation loss."
    if verdict.average.n_eff < LEAST_N_EFF:
        return "An interval needs five measured steps: train longer."
    if verdict.estimate.resolved:
        return TOO_WIDE
    text = until_resolved(verdict.average)
    return f"{text[0].upper()}{text[1:]}."


def details(verdict: Verdict) -> list[str]:
    """The noise scale, the costs of the batch size, the probe, and every warning."""
    name = "b_simple"
    if verdict.optimizer:
        name = f"b_simple of {verdict.optimizer}"
    value = value_line(verdict.trajectory, verdict.estimate, verdict.unit)
    lines = [f"noise scale: {name} {value}"]
    if verdict.basis is not None:
        lines.append(cost_line(verdict.basis, verdict.trajectory.mean))
        if verdict.basis.b is not None and not is_disowned(verdict.estimate, verdict.data_size):
            lines.append(AGREEMENT)
    lines += verdict.geometries
    steps = count(verdict.estimate.steps, "step")
    lines.append(f"probe {verdict.probe}: {verdict.groups}; {steps} measured")
    lines += verdict.story
    for text in cautions(verdict):
        lines.append(f"warning: {text}")
    return lines


def cautions(verdict: Verdict) -> list[str]:
    """Every warning that bears on the noise scale."""
    found = [*_about_interval(verdict)]
    if verdict.data_size and is_disowned(verdict.estimate, verdict.data_size):
        found.append(disowned_text(verdict.data_size, verdict.unit))
    if verdict.twins is not None:
        found.append(twins_text(verdict.twins))
    if verdict.left_out != 0.0:
        found.append(left_out_line(verdict.estimate, verdict.global_size, verdict.left_out))
    by_text = sorted(verdict.skipped, key=lambda reason: reason.text)
    for reason in by_text:
        times = count(verdict.skipped[reason], "step")
        found.append(f"skipped {times}: {reason.text}")
    found += verdict.warnings
    return found


def _about_interval(verdict: Verdict) -> Iterator[str]:
    estimate, average = verdict.estimate, verdict.average
    if estimate.steps and average.n_eff < LEAST_N_EFF:
        yield "an interval needs five measured steps"
    elif not estimate.steps and not verdict.skipped:
        yield "no call of the optimizer's step was seen, so nothing was measured"
    elif not estimate.resolved and estimate.steps and not verdict.trajectory.has_decayed:
        yield f"{UNRESOLVED}; {until_resolved(average)}"
    dominance = dominance_text(average, verdict.unit)
    if dominance:
        yield dominance
