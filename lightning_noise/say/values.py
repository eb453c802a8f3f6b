"""A noise scale over a run in words, and the part of the run that costs and advice rest on."""

from typing import NamedTuple

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.tradeoff import examples_factor, steps_factor
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.say.words import number

WHILE_HIGH = "while the learning rate was at least a third of its peak"


def value_line(trajectory: Trajectory, estimate: NoiseEstimate, unit: str) -> str:
    """The noise scale at the start, on average and at the end, with intervals."""
    end = at_end(estimate)
    if trajectory.first is None or trajectory.mean is None:
        return f"{end} ({unit})"
    first = trajectory.first
    start = with_interval(first.noise_scale, first.low, first.high)
    start += f" at the start (measured step {first.step})"
    average = f"{number(trajectory.mean)} on average"
    end += " at the end"
    if trajectory.has_decayed:
        average += f" {WHILE_HIGH}"
        rate = number(trajectory.last_rate)
        end += f", at a learning rate of {rate}, which makes the noise scale large"
    return f"{start}, {average}, {end} ({unit}, 95 % interval)"


def at_end(estimate: NoiseEstimate) -> str:
    """An estimate with its interval, or what is known without one."""
    return value_text(estimate.noise_scale, estimate.low, estimate.high)


def value_text(value: float | None, low: float | None, high: float | None) -> str:
    """A noise scale with its interval, or what is known of it.

    >>> value_text(160.0, 108.0, 250.0), value_text(None, 108.0, None), value_text(None, None, None)
    ('160 [108, 250]', 'not resolved, at least 108', 'not measured yet')
    """
    if value is not None:
        return with_interval(value, low, high)
    if low is not None:
        return f"not resolved, at least {number(low)}"
    return "not measured yet"


def in_a_sentence(value: float | None, low: float | None, high: float | None) -> str:
    """As :func:`value_text`, for within a sentence that has a comma before it.

    >>> in_a_sentence(160.0, 108.0, 250.0), in_a_sentence(None, 108.0, None)
    ('160 [108, 250]', 'which is not resolved but at least 108')
    """
    if value is None and low is not None:
        return f"which is not resolved but at least {number(low)}"
    return value_text(value, low, high)


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval in square brackets."""
    return f"{number(value)} [{number(low)}, {number(high)}]"


# How far the noise scale has predicted what was measured; a test compares it with the atlas.
AGREEMENT = (
    "as a guide: in 13 small tasks the measured critical batch size was 0.5 to 3.5 times the noise "
    "scale at the end"
)


class Basis(NamedTuple):
    """What costs and advice rest on: the end of a run, or of its part with a high learning rate.

    Args:
        size: the batch size there, in examples.
        b: the noise scale there; ``None`` where it is not resolved.
        low, high: its interval.
        step: the last measured step of the part; ``None`` at the end of the run.
        rate: the learning rate at the end of the run.
    """

    size: float
    b: float | None
    low: float | None
    high: float | None
    step: int | None
    rate: float

    @property
    def where(self) -> str:
        """The batch size, and which part of the run it was used in."""
        if self.step is None:
            return f"batch size {number(self.size)} at learning rate {number(self.rate)}"
        value = value_text(self.b, self.low or None, self.high)
        return (
            f"batch size {number(self.size)} {WHILE_HIGH}, that is until measured step "
            f"{self.step}, where the noise scale was {value}"
        )


def basis_of(
    trajectory: Trajectory,
    estimate: NoiseEstimate,
    size: float | None,
    rate: float,
) -> Basis | None:
    """What costs and advice rest on; ``None`` where the batch size is not known.

    A small learning rate makes the noise scale large (McCandlish et al. 2018, section 2), so after
    a schedule has decayed it is the end of the part in which the rate was high.

    Args:
        trajectory: of the run.
        estimate: at the end.
        size: the batch size at the end.
        rate: the learning rate at the end.
    """
    if size is None:
        return None
    high_part = trajectory.high
    if not trajectory.has_decayed or high_part.end is None:
        return Basis(size, estimate.noise_scale, estimate.low, estimate.high, None, rate)
    step, b, low, high = high_part.end
    return Basis(high_part.size or size, b, low, high, step, rate)


def cost_line(basis: Basis, mean: float | None) -> str:
    """What the batch size costs in steps and examples, beside the minimum of both.

    Args:
        basis: what it rests on.
        mean: average of the resolved noise scales, for where the end is not resolved and its lower
            end does not contradict it.
    """
    b, used = basis.b, basis.where
    if b is None and mean is not None and mean >= (basis.low or 0.0):
        b = mean
        used += f"; with the average of {number(b)}"
    if b is None or b <= 0:
        if not basis.low:
            return used
        steps = number(steps_factor(basis.size, basis.low))
        return f"{used}: at least {steps} times the minimum number of steps"
    steps = number(steps_factor(basis.size, b))
    examples = number(examples_factor(basis.size, b))
    return (
        f"{used}: {steps} times the minimum number of steps, {examples} times the minimum number "
        "of examples"
    )
