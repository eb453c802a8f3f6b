"""The table that compares runs."""

from collections.abc import Iterable

from lightning_noise.core.digits import in_digits
from lightning_noise.report.page import markup
from lightning_noise.report.page.answer import Answer
from lightning_noise.report.page.costs import Cost
from lightning_noise.report.page.course import Course
from lightning_noise.report.page.health import Health
from lightning_noise.report.page.ranges import UNKNOWN, duration, number_text, range_text
from lightning_noise.report.page.times import Span
from lightning_noise.say.values import value_text

CAPTION = (
    "The runs side by side. Noise scale and costs are those at the end, or before the learning "
    "rate decayed, with 95 % intervals in brackets."
)
Summary = tuple[Course, Answer, list[Cost], Health, Span | None]


def comparison(runs: Iterable[Summary]) -> str:
    """One row per run."""
    runs = list(runs)
    units = {course.unit for course, *_ in runs}
    return markup.table(CAPTION, _head(units), [_row(*run) for run in runs])


def _head(units: set[str]) -> list[str]:
    unit = "units of the run"
    if len(units) == 1:
        (unit,) = units
    return [
        "Run",
        f"Batch size, {unit}",
        "Learning rate at the end",
        f"Noise scale, {unit}",
        "The batch size is",
        "Advised size",
        "Steps, times the minimum",
        f"{unit[0].upper()}{unit[1:]}, times the minimum",
        "Values",
        "Resolved",
        "Steps logged",
        "Time",
    ]


def _row(
    course: Course,
    answer: Answer,
    costs: list[Cost],
    health: Health,
    span: Span | None,
) -> list[str]:
    size = scale = situation = UNKNOWN
    advised = "none"
    if answer.basis is not None and answer.advice is not None:
        basis = answer.basis
        size = in_digits(basis.size)
        scale = value_text(basis.b, basis.low, basis.high)
        situation = answer.advice.situation.value
        if answer.advice.change is not None:
            advised = in_digits(answer.advice.change.size)
        elif answer.advice.halving is not None:
            advised = "the same"
    used = [cost for cost in costs if cost.in_use]
    steps = examples = None
    if used:
        steps, examples = used[0].steps, used[0].examples
    time = UNKNOWN
    if span is not None and span.hours is not None:
        time = duration(span.hours)
    return [
        course.title,
        size,
        number_text(course.rates.get(course.moments[-1].step)),
        scale,
        situation,
        advised,
        range_text(steps),
        range_text(examples),
        str(health.values),
        f"{100 * health.share:.0f} %",
        str(health.last - health.first),
        time,
    ]
