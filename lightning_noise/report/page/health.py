"""How far the numbers of a run can be trusted, from what was logged."""

from collections.abc import Iterator
from typing import NamedTuple

from lightning_noise.core.advice import OPEN
from lightning_noise.report.page.course import Course
from lightning_noise.say.values import WHILE_HIGH
from lightning_noise.say.verdict import TOO_WIDE, UNRESOLVED
from lightning_noise.say.words import count, number

FEW = 10  # logged values: the course of the noise scale cannot be judged from fewer
HALF = 0.5
WARNING = "warning: "  # begins a warning in a verdict


class Health(NamedTuple):
    """What speaks for and against the numbers of a run.

    Args:
        values: steps at which something was logged.
        first, last: the first and the last of them.
        resolved: how many of them had a resolved noise scale.
        width: upper over lower end of the last interval; ``None`` where there is no upper end.
        warnings: reasons for doubt.
        logged_warnings: those of the verdict, as it was logged.
    """

    values: int
    first: int
    last: int
    resolved: int
    width: float | None
    warnings: list[str]
    logged_warnings: list[str]

    @property
    def share(self) -> float:
        """Share of the logged values that were resolved."""
        return self.resolved / self.values


def health_of(course: Course) -> Health:
    """The health of the estimator over a run."""
    resolved = 0
    for moment in course.moments:
        if None not in (moment.b, moment.low, moment.high):
            resolved += 1
    end = course.moments[-1]
    width = None
    if end.low and end.high:
        width = end.high / end.low
    health = Health(
        values=len(course.moments),
        first=course.moments[0].step,
        last=end.step,
        resolved=resolved,
        width=width,
        warnings=[],
        logged_warnings=_logged_warnings(course),
    )
    own = list(_warnings(course, health))
    if any(line.startswith(UNRESOLVED) for line in health.logged_warnings):
        own = [line for line in own if not line.startswith(UNRESOLVED)]
    return health._replace(warnings=own)


def _warnings(course: Course, health: Health) -> Iterator[str]:
    end = course.moments[-1]
    if end.low is None:
        yield "No interval was logged at the end: an interval needs five measured steps."
    elif health.width is None:
        yield f"{UNRESOLVED}: train longer, or raise decay."
    elif health.width > OPEN:
        wide = f"The ends of the last interval differ by a factor of {number(health.width)}"
        yield f"{wide}. {TOO_WIDE}"
    if health.values < FEW:
        values = count(health.values, "value")
        few = f"Only {values} of the noise scale in the log"
        yield f"{few}: train longer, or lower log_every_n_steps of the Trainer."
    elif health.share < HALF:
        share = f"{100 * health.share:.0f} %"
        yield f"Only {share} of the logged values are resolved, so the course is known in part."
    if course.trajectory.has_decayed:
        small = "The learning rate has decayed, and a small one makes the noise scale large"
        yield f"{small}: the advice rests on the values {WHILE_HIGH}."


def _logged_warnings(course: Course) -> list[str]:
    if course.verdict is None:
        return []
    lines = map(str.strip, course.verdict.text.splitlines())
    return [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]
