"""Steps and examples to a goal: an adaptive batch size beside fixed ones, each at its own tuned
learning rate.

Two tasks, both small enough for many runs: scikit-learn's digits with a multilayer perceptron (SGD
with momentum 0.9), and Python's own source code with the transformer of examples/char_lm.py at
width 32 (AdamW). The goal is a value of the training loss, smoothed over a window of examples that
is the same for all sizes. Fixed sizes are plain training loops. The adaptive runs are Lightning's
Trainer with ``GradientNoiseScale(adaptive_batch_size=policy)``, start at a size of 16 and use the
defaults.

The learning rate of every row, at the start for the adaptive ones, is searched on a grid with seeds
of its own until the best one has worse neighbours on both sides. The score is steps x examples,
which for a fixed size orders like either. The figures are from five other seeds. Every run is one
line of the file, and a run that is in it is not run again: the work can be cut into pieces.
"""

import math
import statistics
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.gain import adaptive_report
from benchmarks.gain.adaptive_runs import START, Run, run_adaptive, run_fixed
from benchmarks.gain.adaptive_tasks import ADAPTIVE, TASKS, TINY, Task
from benchmarks.harness.spec import Benchmark, Done, option

SEEDS = (2, 3, 4, 5, 6)
# a run in the search of the rate stops at so many times the examples of the best rate so far
GIVE_UP = 2.0
KINDS = ("fixed", *ADAPTIVE)
KEY = ("task", "kind", "size", "rate", "seed")


class Book:
    """The runs done, by what they are; new ones are handed on as soon as they are there."""

    def __init__(self, done: Done, deadline: float = math.inf) -> None:
        self.runs = {key: runs[0] for key, runs in done.items()}
        self._deadline = deadline

    def run(
        self, task: Task, kind: str, size: int, rate: float, seed: int, most_examples: float
    ) -> Generator[list[Run], None, Run]:
        """The run from the book, or a new one.

        Raises:
            TimeoutError: the time is used up.
        """
        key = (task.name, kind, size, rate, seed)
        if key not in self.runs:
            if time.monotonic() > self._deadline:
                raise TimeoutError
            if kind == "fixed":
                self.runs[key] = run_fixed(task, size, rate, seed, most_examples)
            else:
                self.runs[key] = run_adaptive(task, kind, rate, seed, most_examples)
            yield [self.runs[key]]
        return self.runs[key]


def score(runs: Sequence[Run]) -> float:
    """Mean of steps x examples; infinite where a run did not reach the goal."""
    return statistics.fmean(r.steps * r.examples if r.reached else math.inf for r in runs)


class Search:
    """The best rate of a row on its task's grid."""

    def __init__(self, book: Book, task: Task, kind: str, size: int) -> None:
        self._book, self._task, self._row = book, task, (task.name, kind, size)
        self._scores: dict[int, float] = {}

    def score_at(self, index: int) -> Generator[list[Run], None, float]:
        """Of the rate at a place, over the seeds of the search."""
        if index not in self._scores:
            task, runs = self._task, []
            limit, rate = self._limit(), task.rate_at(index)
            for seed in task.tuning_seeds:
                runs.append((yield from self._book.run(task, *self._row[1:], rate, seed, limit)))
            self._scores[index] = score(runs)
        return self._scores[index]

    def _limit(self) -> float:
        """The most examples that a run is worth, as far as is known."""
        limit = self._task.most_examples
        for run in self._book.runs.values():
            if run[:3] == self._row and run.reached and run.seed in self._task.tuning_seeds:
                limit = min(limit, GIVE_UP * run.examples)
        return limit

    def best_from(self, place: int) -> Generator[list[Run], None, int]:
        """From ``place`` until both neighbours are worse."""
        for _ in range(20):
            scores = {}
            for index in (place, place + 1, place - 1):
                scores[index] = yield from self.score_at(index)
            winner = min(scores, key=scores.__getitem__)
            if math.isinf(scores[winner]):
                place -= 1  # none reached the goal: diverged, as a rule, so look lower
            elif winner == place:
                break
            else:
                place = winner
        return place


def work(book: Book, task: Task, kinds: Sequence[str]) -> Iterator[list[Run]]:
    """All runs of a task: for every row the search of the rate, then five fresh seeds."""
    place = 0
    rows = [("fixed", size) for size in task.sizes] + [(kind, START) for kind in task.policies]
    for kind, size in rows:
        if kind not in kinds:
            continue
        start = place if kind == "fixed" else 0
        place = yield from Search(book, task, kind, size).best_from(start)
        for seed in SEEDS:
            yield from book.run(task, kind, size, task.rate_at(place), seed, task.most_examples)


def measure(options: "Options", done: Done) -> Iterator[list[Run]]:
    """All tasks, until they are done or the time is up."""
    book = Book(done, time.monotonic() + 60 * options.minutes)
    try:
        for name in options.tasks:
            yield from work(book, TINY if options.tiny else TASKS[name], options.kinds)
    except TimeoutError:
        print("time is up; run the same command again to go on", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Options:
    tasks: tuple[str, ...] = option(tuple(TASKS), "tasks", extends=True, choices=tuple(TASKS))
    kinds: tuple[str, ...] = option(KINDS, "fixed sizes, policies", extends=True, choices=KINDS)
    minutes: float = option(math.inf, "begins no run after so many minutes", extends=True)
    tiny: bool = option(False, "one size and one policy to an easy goal")


BENCHMARK = Benchmark(
    name="adaptive",
    question="Which steps and examples does an adaptive batch size need, beside tuned fixed ones?",
    about=__doc__,
    row=Run,
    key=KEY,
    measure=measure,
    options=Options(),
    quick=Options(tasks=("digits",), tiny=True),
    tables=adaptive_report.tables(TASKS),
    minutes=50,
    draw=adaptive_report.draw,
)
