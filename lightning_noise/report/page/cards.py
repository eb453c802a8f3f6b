"""The parts of the page on one run."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from lightning_noise.core.digits import in_digits
from lightning_noise.report.page import markup
from lightning_noise.report.page.answer import Answer
from lightning_noise.report.page.costs import Cost
from lightning_noise.report.page.course import Course
from lightning_noise.report.page.health import Health
from lightning_noise.report.page.pictures import (
    components_picture,
    course_picture,
    layers_picture,
)
from lightning_noise.report.page.ranges import TimeUnit, duration, range_text, time_unit
from lightning_noise.report.page.times import Span
from lightning_noise.say.words import count, number

# where the log does not name the optimizer
RATE_HEAD = ("Learning rate times, SGD", "Learning rate times, Adam")
RATE_EXPONENTS = (1.0, 0.5)
ALIKE = "a step takes as long at any size"
IN_PROPORTION = "the time of a step grows with the size"


def answer_card(answer: Answer) -> str:
    """Whether the batch size is right, and what to do."""
    lines = [markup.text("p", line) for line in answer.lines]
    return markup.element("div", "".join(lines), class_="answer")


def course_card(course: Course, answer: Answer) -> str:
    """The figure of the run."""
    heading = markup.text("h3", "Noise scale and batch size")
    return heading + markup.picture(course_picture(course, answer.basis))


def cost_card(
    course: Course,
    costs: list[Cost],
    span: Span | None,
    price: float | None,
) -> str:
    """The tables of batch sizes: steps and examples, then time, then money."""
    heading = markup.text("h3", "What other batch sizes would cost")
    if not costs:
        nothing = "No lower end of the noise scale, or no batch size, is in the log."
        return heading + markup.text("p", nothing)
    caption = (
        "By the large-batch model of McCandlish et al. (2018), with 95 % intervals in brackets."
    )
    size = f"Batch size, {course.unit}"
    unit = f"{course.unit[0].upper()}{course.unit[1:]}"
    head = [size, "Steps, times the minimum", f"{unit}, times the minimum"]
    rates, exponents = _learning_rates(course)
    if costs[0].gain is not None:
        head += rates
        caption += " The factors on the learning rate are starts for tuning."
    rows = [_cost_row(cost, exponents) for cost in costs]
    parts = [heading, markup.table(caption, head, rows, marked=_in_use(costs))]
    if costs[0].hours_alike is not None and span is not None:
        parts.append(_time_table(costs, size, time_unit(span.hours or 0.0)))
        if price is not None:
            parts.append(_price_table(costs, size, price))
    for line in _time_notes(costs, span, price):
        parts.append(markup.text("p", line, class_="soft"))
    return "".join(parts)


def _in_use(costs: list[Cost]) -> list[bool]:
    return [cost.in_use for cost in costs]


def _name(cost: Cost) -> str:
    if cost.in_use:
        return f"{in_digits(cost.size)} (in use)"
    return in_digits(cost.size)


def _learning_rates(course: Course) -> tuple[Sequence[str], Sequence[float]]:
    """Columns for factors on the learning rate, and the exponents of the gain that they are."""
    if course.facts is None:
        return RATE_HEAD, RATE_EXPONENTS
    return (f"Learning rate times, {course.facts.optimizer}",), (course.facts.rate_exponent,)


def _cost_row(cost: Cost, exponents: Sequence[float]) -> list[str]:
    row = [_name(cost), range_text(cost.steps), range_text(cost.examples)]
    if cost.gain is not None:
        row += [number(cost.gain**exponent) for exponent in exponents]
    return row


def _time_table(costs: list[Cost], size: str, unit: TimeUnit) -> str:
    name = unit.name.capitalize()
    head = [size, f"{name} if {ALIKE}", f"{name} if {IN_PROPORTION}"]
    caption = f"{name} for the progress of this run, with 95 % intervals in brackets."
    rows = [_hours_row(cost, unit.per_hour) for cost in costs]
    return markup.table(caption, head, rows, marked=_in_use(costs))


def _price_table(costs: list[Cost], size: str, price: float) -> str:
    head = [size, f"Cost if {ALIKE}", f"Cost if {IN_PROPORTION}"]
    caption = f"Cost of that time at {number(price)} per hour, with 95 % intervals in brackets."
    rows = [_hours_row(cost, price) for cost in costs]
    return markup.table(caption, head, rows, marked=_in_use(costs))


def _hours_row(cost: Cost, per_hour: float) -> list[str]:
    row = [_name(cost)]
    for hours in (cost.hours_alike, cost.hours_in_proportion):
        row.append(range_text(hours and hours.scaled(per_hour)))
    return row


def _time_notes(costs: list[Cost], span: Span | None, price: float | None) -> Iterator[str]:
    wanted = "hours"
    if price is not None:
        wanted = "hours and no cost"
    if span is None:
        fix = "event files of TensorBoardLogger hold them"
        yield f"There are no {wanted}: the log holds fewer than two times; {fix}."
        return
    if span.changed or span.hours is None:
        yield f"There are no {wanted}: the batch size changed, so the time is not that of one size."
        return
    took = f"The {count(span.steps, 'step')} from the first to the last logged value"
    pauses = ""
    if span.pauses:
        pauses = f", without {count(span.pauses, 'pause')}"
    yield f"{took} took {duration(span.hours)}{pauses}."
    if costs[0].hours_alike is None:
        yield f"There are no {wanted} at other sizes: the noise scale is not resolved."
        return
    yield (
        "The two columns are for the same progress, on the machine of the run: in general "
        "the truth lies between them."
    )


def components_card(course: Course) -> str:
    """|G|² and tr(Σ), where they were logged."""
    if not course.components:
        return ""
    heading = markup.text("h3", "Signal and noise: |G|² and tr(Σ)")
    image = components_picture(course)
    if image is None:
        nothing = "At no logged step both are positive, so that they cannot be drawn."
        return heading + markup.text("p", nothing)
    left_out = 0
    for one in course.components:
        if one.grad_sq <= 0 or one.trace <= 0:
            left_out += 1
    note = ""
    if left_out:
        steps = count(left_out, "logged step")
        reason = "the estimate of one of them is not positive while it is not resolved"
        note = markup.text("p", f"{steps} cannot be drawn: {reason}.", class_="soft")
    return heading + markup.picture(image) + note


def layers_card(course: Course) -> str:
    """The map of layers and their last values, where layers were logged."""
    image = layers_picture(course)
    if image is None:
        return ""
    rows = []
    for name, series in course.layers.items():
        first, last = min(series), max(series)
        rows.append([name, number(series[first]), number(series[last]), str(last)])
    head = ["Layer", "First value", "Last value", "At step"]
    caption = f"Noise scale of each layer, {course.unit}: the first and the last resolved value"
    summary = markup.text("summary", "The numbers of the layers")
    numbers = markup.element("details", summary + markup.table(caption, head, rows))
    return markup.text("h3", "Layers over training") + markup.picture(image) + numbers


def health_card(course: Course, health: Health) -> str:
    """How far the numbers can be trusted."""
    rows = [
        ("Values logged", f"{health.values}, from step {health.first} to step {health.last}"),
        ("Resolved", f"{100 * health.share:.0f} % ({health.resolved} of {health.values})"),
        ("Width at the end", _width(course, health)),
    ]
    if course.times:
        last = datetime.fromtimestamp(course.times[-1], timezone.utc)
        rows.append(("Last value logged", f"{last:%Y-%m-%d %H:%M} UTC"))
    if course.others:
        rows.append(("Also in the log", ", ".join(sorted(course.others))))
    warnings = [*health.warnings, *health.logged_warnings]
    parts = [markup.text("h3", "How far to trust the numbers"), markup.pairs(rows)]
    if warnings:
        parts.append(markup.items(warnings, class_="warnings"))
    if course.verdict is None:
        missing = (
            "Coverage, skipped steps and the size of the data set are not among the scalars: the "
            "verdict that is printed at the end of fit names them."
        )
        parts.append(markup.text("p", missing, class_="soft"))
    return "".join(parts)


def _width(course: Course, health: Health) -> str:
    if course.moments[-1].low is None:
        return "no interval"
    if health.width is None:
        return "no upper end"
    return f"the upper end is {number(health.width)} times the lower end"


def verdict_card(course: Course) -> str:
    """The verdict as it was logged, if it was."""
    if course.verdict is None:
        return ""
    heading = markup.text("h3", f"Verdict as logged at step {course.verdict.step}")
    return heading + markup.text("pre", course.verdict.text)
