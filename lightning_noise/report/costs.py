"""What more runs of a study cost, from those that it has done."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lightning_noise.core.critical import CriticalBatchSize, NoFitError
from lightning_noise.report.runs import Run, by_size, reruns_of, searches_of
from lightning_noise.say.words import count, duration


class Cost(NamedTuple):
    """A number of runs, and what they take one after the other; None where no run was timed."""

    runs: int
    seconds: float | None

    def __str__(self) -> str:
        runs = f"about {count(self.runs, 'run')}"
        if self.seconds is None:
            return runs
        return f"{runs}, {duration(self.seconds)} of training"


def cost(runs: Iterable[Run]) -> Cost:
    """Of doing these runs again. A run without a time counts as the mean of the others."""
    runs = list(runs)
    known = [run.seconds for run in runs if run.seconds is not None]
    if not known:
        return Cost(len(runs), None)
    return Cost(len(runs), math.fsum(known) / len(known) * len(runs))


def cost_at(runs: Sequence[Run], sizes: Iterable[float]) -> Cost:
    """Of all runs of one goal at these batch sizes.

    A size that has no runs counts like the nearest one that has.
    """
    runs_at = by_size(runs)
    needed: list[Run] = []
    for size in sizes:
        needed += runs_at[_nearest(size, runs_at)]
    return cost(needed)


def _nearest(size: float, known: Iterable[float]) -> float:
    return min(known, key=lambda other: abs(math.log(other / size)))


def with_cost(text: str, price: Cost | None) -> str:
    """A text that ends with an action, and what the action costs."""
    if price is None or price.runs == 0:
        return text
    return f"{text.removesuffix('.')}: {price}"


def fit_warnings(fit: CriticalBatchSize, runs: Sequence[Run]) -> tuple[str, ...]:
    """The warnings of a fit with the cost of what they advise, where the runs are a study's."""
    texts = []
    for text, sizes in zip(fit.warnings, fit.sizes_to_run, strict=False):
        texts.append(with_cost(text, _study_cost(runs, sizes)))
    return (*texts, *fit.warnings[len(texts) :])


def refusal(error: NoFitError, runs: Sequence[Run]) -> str:
    """Why there is no fit, with the cost of what is advised, where the runs are a study's."""
    return with_cost(str(error), _study_cost(runs, error.sizes))


def _study_cost(runs: Sequence[Run], sizes: Sequence[float]) -> Cost | None:
    """None where no run is a search trial: what such a table needs at a size is not known."""
    if not searches_of(runs):
        return None
    return cost_at(runs, sizes)


def rerun_cost(runs: Iterable[Run]) -> Cost:
    """Of doing the reruns again."""
    return cost(reruns_of(runs))


def distinct(rows: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """One row of each run: a run has one for every goal that is read from it."""
    found: dict[tuple[object, ...], Mapping[str, object]] = {}
    for row in rows:
        which = tuple(row.get(name) for name in WHICH)
        found.setdefault(which, row)
    return list(found.values())


WHICH = ("global_size", "phase", "trial", "seed", "learning_rate", "seconds")
