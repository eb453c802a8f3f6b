"""Whether the batch size of a run is right, from what was logged."""

from typing import NamedTuple

from lightning_noise.core.advice import Advice, advise
from lightning_noise.report.page.course import Course
from lightning_noise.say.advice_text import WHETHER, Context, advice_lines
from lightning_noise.say.values import WHILE_HIGH, Basis, basis_of, in_a_sentence
from lightning_noise.say.verdict import TOO_WIDE

NO_SIZE = "The log holds no batch size, so there is no advice."


class Answer(NamedTuple):
    """The advice on a run, and what it rests on.

    Args:
        basis: the numbers; ``None`` where no batch size was logged.
        advice: as data; ``None`` as well there.
        lines: the advice in words.
    """

    basis: Basis | None
    advice: Advice | None
    lines: list[str]


def answer_of(course: Course) -> Answer:
    """The advice from the logged values, in the words of the verdict.

    Step times and the size of the data set are not in the log, nor is the optimizer in a log of an
    earlier version, so the sentences about them are left out. A verdict that was logged at the end
    and gives no advice knows more (a data set as small as the noise scale): then there is none here
    either.
    """
    estimate, trajectory = course.end, course.trajectory
    size = course.moments[-1].size
    basis = basis_of(trajectory, estimate, size, trajectory.last_rate or 0.0)
    if basis is None:
        return Answer(None, None, [NO_SIZE])
    withheld = _withheld(course)
    if withheld:
        advice = advise(basis.size, None, None, None)
        return Answer(basis, advice, withheld)
    advice = advise(basis.size, basis.b, basis.low, basis.high)
    lines = advice_lines(advice, _context(basis, course))
    if course.optimizer:
        lines[0] = f"{course.optimizer}: {lines[0]}"
    return Answer(basis, advice, lines)


def _context(basis: Basis, course: Course) -> Context:
    part = ""
    if basis.step is not None:
        part = f" {WHILE_HIGH}"
    # shown where no advice is possible: what would make it so
    wider = ""
    if basis.b is not None:
        wider = TOO_WIDE
    exponent = None
    if course.facts is not None:
        exponent = course.facts.rate_exponent
    return Context(
        interval=in_a_sentence(basis.b, basis.low, basis.high),
        part=part,
        unit=course.unit,
        rate_exponent=exponent,
        help=wider,
    )


def _withheld(course: Course) -> list[str]:
    """The first lines of a verdict that was logged at the end and gives no advice."""
    if course.verdict is None or course.verdict.step < course.moments[-1].step:
        return []
    lines = course.verdict.text.splitlines()
    first = lines[0].removeprefix(f"{course.optimizer}: ")
    if not first.startswith(WHETHER):
        return []
    return [line.strip() for line in lines[:2] if not _is_detail(line)]


def _is_detail(line: str) -> bool:
    return line.strip().startswith("noise scale:")
