"""An advice on the batch size in words: is it right, and what should be done?"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lightning_noise.core.advice import MOST_DOUBLINGS, Advice, Factor, Situation, Step
from lightning_noise.core.digits import in_digits
from lightning_noise.say.words import number

WHETHER = "Whether your batch size of"  # begins an advice that gives none
ABOUT_ONE = 0.02  # a change of fewer percent is "about the same"


class Context(NamedTuple):
    """What the words of an advice need beside it.

    Args:
        interval: the noise scale with its interval, or its lower end, in words.
        part: which part of the run it rests on, as ``" while …"``; "" for the end of the run.
        unit: what a batch size counts, in the plural.
        rate_exponent: exponent of the gain that is the factor on the learning rate: 1 for SGD,
            1/2 for optimizers of the Adam kind. ``None``: the optimizer is not known, and the
            factor is left out.
        help: what would make an advice possible where there is none.
        seconds: of an optimizer step by batch size, where it was timed.
    """

    interval: str
    part: str = ""
    unit: str = "examples"
    rate_exponent: float | None = 1.0
    help: str = ""
    seconds: Mapping[float, float] = MappingProxyType({})


def advice_lines(advice: Advice, context: Context) -> list[str]:
    """The advice in one to three lines; the first one says whether the batch size is right.

    >>> from lightning_noise.core.advice import advise
    >>> for line in advice_lines(advise(32, 160, 108, 250), Context("160 [108, 250]")):
    ...     print(line)
    Your batch size of 32 is about 5 times below the noise scale, 160 [108, 250] examples.
    Raising it to 128 with the learning rate times 2.67 would need about 62 % [58, 66] fewer steps \
for about 50 % [34, 69] more examples.
    It saves time where a step of 128 takes less than 2.67 times as long as one of 32.
    """
    words = {
        Situation.TOO_SMALL: _too_small,
        Situation.ABOUT_RIGHT: _about_right,
        Situation.TOO_LARGE: _too_large,
        Situation.UNDETERMINED: _undetermined,
    }
    return words[advice.situation](advice, context)


def _too_small(advice: Advice, context: Context) -> list[str]:
    step = _given(advice.change)
    times = _times(advice)
    lines = [f"{_size(advice)} is {times} below {_noise_scale(context)}."]
    lines.append(f"Raising it to {_predicted(step, context)}.")
    lines.append(f"{_in_time(advice, step, context)}{_again(advice, step)}")
    return lines


def _too_large(advice: Advice, context: Context) -> list[str]:
    first = f"{_size(advice)} is {_times(advice)} above {_noise_scale(context)}."
    if advice.change is None:
        return [first, "It cannot be lowered."]
    step = advice.change
    again = _again(advice, step)
    return [
        first,
        f"Lowering it to {_predicted(step, context)}.",
        f"{_in_time(advice, step, context)}{again}",
    ]


def _about_right(advice: Advice, context: Context) -> list[str]:
    doubling, halving = _given(advice.doubling), _given(advice.halving)
    lines = [
        f"{_size(advice)} is about right: the noise scale is {context.interval} "
        f"{context.unit}{context.part}.",
        f"Doubling it to {_predicted(doubling, context)}; it saves time where "
        f"{_break_even(advice, doubling)}.",
    ]
    if halving.size >= 1:
        lines.append(f"Halving it to {_predicted(halving, context)}.")
    return lines


def _undetermined(advice: Advice, context: Context) -> list[str]:
    lines = [f"{WHETHER} {in_digits(advice.size)} is right cannot be determined:"]
    if advice.noise_scale is None:
        lines[0] += " the noise scale has not been measured."
    else:
        known = context.interval.removeprefix("which is ")
        lines[0] += f" the noise scale is {known} {context.unit}{context.part}."
    if context.help:
        lines.append(context.help)
    return lines


def _size(advice: Advice) -> str:
    return f"Your batch size of {in_digits(advice.size)}"


def _times(advice: Advice) -> str:
    """How far the size is from the noise scale, or at least is where only a bound is known."""
    times = f"{number(float(f'{advice.distance:.2g}'))} times"
    if advice.is_bound:
        return f"at least {times}"
    return f"about {times}"


def _again(advice: Advice, step: Step) -> str:
    """Where the advised change is the largest that is advised at once."""
    change = max(step.size / advice.size, advice.size / step.size)
    if change < 2**MOST_DOUBLINGS:
        return ""
    return " Then measure again."


def _noise_scale(context: Context) -> str:
    return f"the noise scale{context.part}, {context.interval} {context.unit}"


def _given(step: Step | None) -> Step:
    if step is None:
        raise ValueError("an advice of this situation names a change, got None.")
    return step


def _predicted(step: Step, context: Context) -> str:
    """The change and its costs, from the size on."""
    steps = _change(step.steps, "steps")
    examples = _change(step.examples, context.unit)
    change = in_digits(step.size)
    if context.rate_exponent is not None:
        rate = number(step.gain**context.rate_exponent)
        change += f" with the learning rate times {rate}"
    return f"{change} would need {steps} for {examples}"


def _change(factor: Factor, noun: str) -> str:
    percent = 100 * (factor.value - 1)
    if abs(percent) < 100 * ABOUT_ONE:
        return f"about as {_much(noun)} {noun}"
    word = "more"
    if percent < 0:
        word = _less(noun)
    if factor.low is None or factor.high is None:
        return f"about {_percent(factor.value)} % {word} {noun}"
    ends = sorted([_percent(factor.low), _percent(factor.high)])
    return f"about {_percent(factor.value)} % [{ends[0]}, {ends[1]}] {word} {noun}"


def _percent(factor: float) -> int:
    return abs(round(100 * (factor - 1)))


def _in_time(advice: Advice, step: Step, context: Context) -> str:
    """What the change does to the time: by step times where both sizes have one."""
    new, old = in_digits(step.size), in_digits(advice.size)
    now, then = context.seconds.get(advice.size), context.seconds.get(step.size)
    if now and then:
        slower = then / now
        time = _change(Factor(slower / step.gain, None, None), "time")
        taken = f"a step of {new} took {number(slower)} times as long as one of {old}"
        return f"On this machine {taken}, so it would need {time}."
    if step.size > advice.size:
        return f"It saves time where {_break_even(advice, step)}."
    times = number(1 / step.gain)
    unless = f"a step of {old} takes less than {times} times as long as one of {new}"
    return f"It saves time unless {unless}."


def _break_even(advice: Advice, step: Step) -> str:
    new, old, times = in_digits(step.size), in_digits(advice.size), number(step.gain)
    return f"a step of {new} takes less than {times} times as long as one of {old}"


def _much(noun: str) -> str:
    """Time is not counted."""
    if noun == "time":
        return "much"
    return "many"


def _less(noun: str) -> str:
    if noun == "time":
        return "less"
    return "fewer"
