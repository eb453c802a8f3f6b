"""What a run's logger wrote, as plain values."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lightning_noise.say.log_keys import without_prefix
from lightning_noise.say.run_facts import RunFacts

NO_FACTS: Mapping[str, RunFacts] = MappingProxyType({})


class Point(NamedTuple):
    """One logged value.

    Args:
        step: on the axis of the loggers.
        value: what was logged.
        order: grows with the order of logging: seconds since 1970, or the number of the row.
    """

    step: int
    value: float
    order: float


class LoggedText(NamedTuple):
    """A text as it was logged, and its step."""

    step: int
    text: str


class RunLog(NamedTuple):
    """The log of one run.

    Args:
        name: what the run is called on the page.
        scalars: their points by name, in the order in which they were logged.
        texts: the last one by name.
        timed: whether ``order`` is a time in seconds.
        facts: by optimizer; empty in a log of an earlier version.
    """

    name: str
    scalars: dict[str, list[Point]]
    texts: dict[str, LoggedText]
    timed: bool
    facts: Mapping[str, RunFacts] = NO_FACTS


def logs_of(
    name: str,
    scalars: Mapping[str, list[Point]],
    texts: Mapping[str, LoggedText],
    *,
    timed: bool,
) -> list[RunLog]:
    """The logs of the noise scale in a folder, one for each prefix of a logger, without it.

    Texts have no prefix, so they are left out where they could belong to several logs.

    Args:
        name: of the folder.
        scalars: by the name that they have in the log.
        texts: by name.
        timed: whether the points have times.
    """
    by_prefix: dict[str, dict[str, list[Point]]] = {}
    for logged, points in scalars.items():
        parts = without_prefix(logged)
        if parts is not None:
            prefix, key = parts
            by_prefix.setdefault(prefix, {})[key] = points
    if len(by_prefix) == 1:
        (found,) = by_prefix.values()
        return [RunLog(name, found, dict(texts), timed)]
    logs = []
    for prefix, found in by_prefix.items():
        logs.append(RunLog(f"{name}, {prefix or 'no prefix'}", found, {}, timed))
    return logs
