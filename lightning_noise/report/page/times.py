"""How long a run took, by the times at which it logged."""

from itertools import pairwise
from statistics import median
from typing import NamedTuple

from lightning_noise.report.page.course import Course

HOUR = 3600.0
# A gap between two logged values that is longer than both is a pause of the run.
PAUSE = 600.0  # seconds
MANY = 20  # times the usual gap
ONE_SIZE = 1.5  # batch sizes within this factor count as one: the last of an epoch may be smaller


class Span(NamedTuple):
    """The part of a run between its first and its last logged value.

    Args:
        steps: optimizer steps in it.
        hours: without the pauses; ``None`` where the batch size changed, because the time is then
            not that of one size.
        pauses: number of gaps that were left out.
        changed: whether the batch size changed.
    """

    steps: int
    hours: float | None
    pauses: int
    changed: bool


def span_of(course: Course) -> Span | None:
    """The logged part of a run; ``None`` where the log has no times or a single value."""
    if len(course.times) < 2:
        return None
    steps = course.moments[-1].step - course.moments[0].step
    gaps = []
    for before, after in pairwise(course.times):
        gaps.append(max(after - before, 0.0))
    most = max(PAUSE, MANY * median(gaps))
    running = [gap for gap in gaps if gap <= most]
    sizes = [moment.size for moment in course.moments if moment.size]
    changed = bool(sizes) and max(sizes) > ONE_SIZE * min(sizes)
    hours = None
    if not changed:
        hours = sum(running) / HOUR
    return Span(steps, hours, len(gaps) - len(running), changed)
