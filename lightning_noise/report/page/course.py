"""What was logged of one optimizer of a run, put in order."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.history import Moment
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.report.page.log import LoggedText, Point, RunLog
from lightning_noise.say.log_keys import INTERVAL, PREFIX, prefix
from lightning_noise.say.run_facts import RunFacts

EVERY = "trace"  # is logged whenever anything is
LAYER = "layer/"
BASIC = (*INTERVAL, EVERY, "grad_sq", "global_size", "learning_rate")
FOLLOWING = ("steps_factor", "examples_factor", "temperature")  # from the basic ones
FACTOR = f"{PREFIX}learning_rate_factor"  # of an adaptive batch size, in the learning rate
Series = dict[int, float]


class Components(NamedTuple):
    """|G|² and tr(Σ) at a step."""

    step: int
    grad_sq: float
    trace: float


class Course(NamedTuple):
    """What was logged of one optimizer of a run, by step.

    Args:
        run: its name.
        optimizer: "" where there is one.
        moments: one per logged value, in the order of their steps; at least one.
        components: where they were logged.
        rates: the learning rates that the optimizer stepped with.
        scheduled: the same without the factor of an adaptive batch size.
        layers: the noise scales of layers, where they were resolved.
        others: the names of further scalars.
        times: seconds since 1970 in the order of ``moments``; empty where the log has none.
        verdict: as it was logged.
        facts: of the optimizer; ``None`` in a log of an earlier version.
    """

    run: str
    optimizer: str
    moments: list[Moment]
    components: list[Components]
    rates: Series
    scheduled: Series
    layers: dict[str, Series]
    others: list[str]
    times: list[float]
    verdict: LoggedText | None
    facts: RunFacts | None = None

    @property
    def title(self) -> str:
        """The name of the run, with that of the optimizer where there are several."""
        if not self.optimizer:
            return self.run
        return f"{self.run}, {self.optimizer}"

    @property
    def unit(self) -> str:
        """What a batch size counts; examples where the log does not say it."""
        if self.facts is None:
            return "examples"
        return self.facts.unit

    @property
    def end(self) -> NoiseEstimate:
        """The last logged estimate. How many steps are behind it is not in the log."""
        return _estimate(self.moments[-1])

    @property
    def trajectory(self) -> Trajectory:
        """First, mean and last resolved value; its steps are those of the loggers."""
        trajectory = Trajectory()
        for moment in self.moments:
            rate = self.scheduled.get(moment.step)
            trajectory.add(_estimate(moment), rate=rate, size=moment.size)
        return trajectory


def courses_of(log: RunLog) -> list[Course]:
    """One per optimizer; empty where the log does not hold what is always logged."""
    names = list(_optimizers(log))
    return [_course(log, name, names) for name in names]


def _optimizers(log: RunLog) -> Iterator[str]:
    for name, points in log.scalars.items():
        head, _, last = name.removeprefix(PREFIX).rpartition("/")
        is_layer = f"{head}/".startswith(LAYER) or f"/{LAYER}" in f"{head}/"
        if points and last == EVERY and not is_layer:
            yield head


def _course(log: RunLog, optimizer: str, optimizers: list[str]) -> Course:
    head = prefix(optimizer)
    every = log.scalars[f"{head}{EVERY}"]
    cuts = _restarts(every)
    scalars = {}
    for name in _names_of(log, optimizer, optimizers):
        scalars[name.removeprefix(head)] = _in_order(log.scalars[name], cuts)
    steps = sorted(scalars[EVERY])
    rates = scalars.get("learning_rate", {})
    factors = _in_order(log.scalars.get(FACTOR, []), cuts)
    layers = {}
    others = []
    for name, series in sorted(scalars.items(), key=_in_natural_order):
        if name.startswith(LAYER):
            layers[name.removeprefix(LAYER)] = series
        elif name not in BASIC and name not in FOLLOWING:
            others.append(f"{head}{name}")
    facts = log.facts.get(optimizer)
    times = []
    if log.timed:
        order = {point.step: point.order for point in every}
        times = [order[step] for step in steps]
    return Course(
        run=log.name,
        optimizer=optimizer,
        moments=[_moment(scalars, step, place) for place, step in enumerate(steps, 1)],
        components=_components(scalars),
        rates=rates,
        scheduled={step: rate / (factors.get(step) or 1.0) for step, rate in rates.items()},
        layers=layers,
        others=others,
        times=times,
        verdict=_last_verdict(log.texts.get(f"{head}verdict"), facts),
        facts=facts,
    )


def _last_verdict(logged: LoggedText | None, facts: RunFacts | None) -> LoggedText | None:
    """Of a verdict among the events and one beside the log, the later one."""
    if facts is None or not facts.verdict:
        return logged
    if logged is not None and logged.step > facts.step:
        return logged
    return LoggedText(facts.step, facts.verdict)


def _in_natural_order(named: tuple[str, Series]) -> list[tuple[int, str]]:
    """By name, with the numbers in it as numbers: layer 10 after layer 9.

    >>> sorted([("b.10", {}), ("b.9", {}), ("a", {})], key=_in_natural_order)
    [('a', {}), ('b.9', {}), ('b.10', {})]
    """
    parts = re.split(r"(\d+)", named[0])
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _names_of(log: RunLog, optimizer: str, optimizers: list[str]) -> Iterator[str]:
    """The scalars of an optimizer; those of the others begin with another head."""
    head = prefix(optimizer)
    others = [prefix(name) for name in optimizers if name and name != optimizer]
    for name in log.scalars:
        if name.startswith(head) and not any(map(name.startswith, others)):
            yield name


class _Restart(NamedTuple):
    """From here on the steps from ``step`` on were logged again."""

    step: int
    order: float


def _restarts(points: list[Point]) -> list[_Restart]:
    """Where a step is not larger than the one before: the run was resumed from before it.

    What one step logs is written one after the other, so the border lies between two steps.
    """
    found = []
    for before, point in pairwise(points):
        if point.step <= before.step:
            found.append(_Restart(point.step, (before.order + point.order) / 2))
    return found


def _in_order(points: list[Point], restarts: list[_Restart]) -> Series:
    """The values by step, without those that a resumed run has logged anew."""
    series = {}
    for point in points:
        if not any(_is_replaced(point, restart) for restart in restarts):
            series[point.step] = point.value
    return series


def _is_replaced(point: Point, restart: _Restart) -> bool:
    return point.step >= restart.step and point.order < restart.order


def _moment(scalars: Mapping[str, Series], step: int, place: int) -> Moment:
    b, low, high = (_positive(scalars.get(name, {}).get(step)) for name in INTERVAL)
    size = _positive(scalars.get("global_size", {}).get(step))
    return Moment(step, place, b, low, high, size)


def _positive(value: float | None) -> float | None:
    if value is None or value <= 0:
        return None
    return value


def _components(scalars: Mapping[str, Series]) -> list[Components]:
    grad_sq, trace = scalars.get("grad_sq", {}), scalars[EVERY]
    both = sorted(grad_sq.keys() & trace.keys())
    return [Components(step, grad_sq[step], trace[step]) for step in both]


def _estimate(moment: Moment) -> NoiseEstimate:
    return NoiseEstimate(
        noise_scale=moment.b,
        low=moment.low,
        high=moment.high,
        signal=math.nan,
        noise=math.nan,
        resolved=None not in (moment.b, moment.low, moment.high),
        steps=moment.step,
        n_eff=math.nan,
    )
