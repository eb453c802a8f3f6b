"""Times that are compared fairly: rounds in random order, ratios within a round, and the rounds
left out in which another process took the core.

In every round all variants run once, in an order drawn for this round. A figure is the median over
rounds of the ratio to the baseline of the same round, with an interval from order statistics. The
ratio of CPU times is taken over all rounds, as waiting for a core does not count there. The ratio
on the wall's clock is taken over the undisturbed rounds: those in which the share of CPU time in
every visit, ``cpu_seconds / seconds``, is at least 0.95 times the greatest that the variant reached
in any round. With fewer than six of these there is no such ratio.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.harness.machine import load_average
from benchmarks.harness.spec import Timed, option
from benchmarks.harness.tables import MISSING, interval, markdown, number_cell

LEAST_SHARE = 0.95
LEAST_ROUNDS = 6  # of fewer the interval of a median is no 95 % one


class Visit(NamedTuple):
    """The columns that rows of times have; a benchmark may have more.

    Args:
        place: of the variant in the order of its round.
        seconds: of one step on the wall's clock, what a user waits.
        cpu_seconds: of one step on the processor's clock, over all threads of the process.
        load: of the machine before the visit, as the mean number of processes that wanted a core
            in the last minute.
    """

    round: int
    place: int
    variant: str
    seconds: float
    cpu_seconds: float = math.nan
    load: float = math.nan


class Times(NamedTuple):
    """Of a step."""

    seconds: float
    cpu_seconds: float
    load: float


class Stopwatch:
    """Adds up what runs inside of :meth:`running`, by both clocks."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.load = load_average()

    @contextmanager
    def running(self, weight: float = 1.0) -> Iterator[None]:
        """Counts what is inside, times ``weight``."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.seconds += weight * (time.perf_counter() - wall)
        self.cpu_seconds += weight * (time.process_time() - processor)

    def per_step(self, steps: int) -> Times:
        """What was counted, for each of so many steps."""
        return Times(self.seconds / steps, self.cpu_seconds / steps, self.load)


def visit(
    step: Callable[[], object],
    weights: Sequence[float] = (1.0,),
    *,
    ready: Callable[[], object] = lambda: None,
) -> Times:
    """Times of a step, after an untimed one.

    Args:
        step: makes one.
        weights: of the timed steps in the mean step.
        ready: is called before each timed step, and not timed.
    """
    step()
    watch = Stopwatch()
    for weight in weights:
        ready()
        with watch.running(weight):
            step()
    return watch.per_step(1)


def shuffled(variants: Sequence[Any], number: int, seed: int = 0) -> list[Any]:
    """The order of a round, the same whenever it runs and in every process."""
    return random.Random(f"{seed} {number}").sample(variants, len(variants))


def one_round(number: int, variants: Mapping[str, Callable[[], Times]]) -> list[Visit]:
    """All variants once, in the order of this round."""
    order = enumerate(shuffled(tuple(variants), number))
    return [Visit(number, place, name, *variants[name]()) for place, name in order]


@dataclass(frozen=True, kw_only=True)
class Rounds(Timed):
    """The options of a benchmark that is measured in rounds."""

    rounds: int = option(40, "rounds of all variants", extends=True)
    size: str = option("whole", "of the model", choices=("whole", "tiny"))


class Ratio(NamedTuple):
    """A median with the ends of its 95 % interval."""

    median: float
    low: float
    high: float


UNKNOWN = Ratio(math.nan, math.nan, math.nan)


def median_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval for the median, from order statistics; below 6 values (at 95 %)
    their range.

    >>> median_interval(range(1, 41))
    (14, 27)
    """
    ordered = sorted(values)
    n = len(ordered)
    rank, tail = 0, 0.5**n  # the probability that at most ``rank`` values lie below the median
    while rank + 1 < n / 2 and 2 * (tail + math.comb(n, rank + 1) * 0.5**n) <= 1 - confidence:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    return ordered[rank], ordered[n - 1 - rank]


def median_of(values: Sequence[float]) -> Ratio:
    """The median with its interval; NaN where there are no values."""
    if not values:
        return UNKNOWN
    return Ratio(statistics.median(values), *median_interval(values))


def disturbed(visits: Sequence[Any]) -> set[int]:
    """Rounds in which another process took the core for more than 5 % of a visit.

    A visit without CPU time cannot be judged, and disturbs nothing.
    """
    greatest: dict[str, float] = {}
    for visit in visits:
        share = visit.cpu_seconds / visit.seconds
        greatest[visit.variant] = max(share, greatest.get(visit.variant, 0.0))
    low = set()
    for visit in visits:
        if visit.cpu_seconds / visit.seconds < LEAST_SHARE * greatest[visit.variant]:
            low.add(visit.round)
    return low


class Comparison(NamedTuple):
    """A variant beside its baseline.

    Args:
        rounds: with both.
        kept: of these, undisturbed.
        seconds: of a step, median over the undisturbed rounds.
        ratio: of the wall's clock, over these.
        cpu_ratio: of the processor's clock, over all rounds.
        cpu_added: CPU seconds beyond the baseline, median over all rounds.
    """

    rounds: int
    kept: int
    seconds: float
    ratio: Ratio
    cpu_ratio: Ratio
    cpu_added: float

    @property
    def rounds_cell(self) -> str:
        """How many rounds there are, and how many the wall's clock counts."""
        return f"{self.kept} of {self.rounds}"

    @property
    def cells(self) -> tuple[str, str, str]:
        """Of a table with the columns :data:`CPU_FIRST`."""
        return self.rounds_cell, self.cpu_ratio_cell(), self.ratio_cell()

    def ratio_cell(self, form: str = ".3f") -> str:
        """The ratio of the wall's clock, or a dash where too few rounds are undisturbed."""
        if self.kept < LEAST_ROUNDS:
            return MISSING
        return interval(self.ratio, form)

    def cpu_ratio_cell(self, form: str = ".3f") -> str:
        """The ratio of the processor's clock; of few rounds the bracket is their range."""
        return interval(self.cpu_ratio, form)


def compare(visits: Sequence[Any], variant: str, baseline: str) -> Comparison:
    """A variant beside its baseline, from visits with the columns of :class:`Visit`."""
    known = [visit for visit in visits if visit.seconds > 0]  # NaN where memory was not enough
    left_out = disturbed(known)
    base = {visit.round: visit for visit in known if visit.variant == baseline}
    mine = [visit for visit in known if visit.variant == variant and visit.round in base]
    kept = [visit for visit in mine if visit.round not in left_out]
    cpu = [visit for visit in mine if not math.isnan(visit.cpu_seconds)]
    return Comparison(
        rounds=len(mine),
        kept=len(kept),
        seconds=median_of([v.seconds for v in kept]).median,
        ratio=median_of([v.seconds / base[v.round].seconds for v in kept]),
        cpu_ratio=median_of([v.cpu_seconds / base[v.round].cpu_seconds for v in cpu]),
        cpu_added=median_of([v.cpu_seconds - base[v.round].cpu_seconds for v in cpu]).median,
    )


ROUNDS, STEP, CPU = "undisturbed rounds", "step time, ratio [95 %]", "CPU time, ratio [95 %]"
CPU_FIRST = (ROUNDS, CPU, STEP)


def ratio_table(rows: Sequence[Any], baselines: Mapping[str, str]) -> str:
    """A line for each variant, beside its baseline."""
    lines = []
    for variant, baseline in baselines.items():
        found = compare(rows, variant, baseline)
        seconds = number_cell(found.seconds, ".3f")
        ratios = (found.ratio_cell(), found.cpu_ratio_cell())
        lines.append((variant, found.rounds_cell, seconds, *ratios))
    return markdown(("variant", ROUNDS, "step, s", STEP, CPU), lines)
