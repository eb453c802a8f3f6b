"""The aims for what measuring may cost, beside the committed rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.cost import examples_probe, launch_bound, overhead, overhead_ddp
from benchmarks.harness.rounds import Ratio, compare, median_of
from benchmarks.harness.rows import committed
from benchmarks.harness.spec import Benchmark
from benchmarks.harness.tables import MISSING, interval, markdown

Rows = Sequence[Any]


class Aim(NamedTuple):
    """What is asked of a figure.

    Args:
        cost: what is measured, in words.
        benchmark: whose rows show it.
        most: greatest value that meets the aim.
        figure: of the rows.
    """

    cost: str
    benchmark: Benchmark
    most: float
    figure: Callable[[Rows], Ratio]

    @property
    def found(self) -> Ratio:
        """The figure of the committed rows."""
        return self.figure(committed(self.benchmark))


def aims() -> Iterator[Aim]:
    """All of them."""
    for name, most in (("every step", 1.01), ("every 10th step", 1.005)):
        variant = f"micro_batches, {name}"
        yield Aim(f"{variant}, 10 M parameters", overhead.BENCHMARK, most, _cpu(variant))
    for name in ("ranks", "micro_batches"):
        yield Aim(f"{name} under DDP", overhead_ddp.BENCHMARK, 1.01, _clock(name))
    for key, most in (("d256", 1.04), ("d512", 1.02), ("mlp", 1.015), ("resnet", 1.06)):
        model = examples_probe.WHOLE[key].name
        for variant, bound in (("examples", most), ("examples, every 10th", 1.005)):
            figure = _of_model(model, variant)
            yield Aim(f"{variant}: {model}", examples_probe.BENCHMARK, bound, figure)
    for variant in launch_bound.VARIANTS:
        if variant.name in SMALL_TENSORS:
            what = f"{variant.name}: 400 small tensors, times two empty hooks"
            most = SMALL_TENSORS[variant.name]
            yield Aim(what, launch_bound.BENCHMARK, most, _hooks(variant))
    for name in SMALL_TENSORS:
        what = f"{name}: step of a tiny MLP under the Trainer"
        yield Aim(what, launch_bound.BENCHMARK, 1.3, _of_trainer(name))


SMALL_TENSORS = {"micro_batches, every step": 1.5, "examples, every step": 4.0}


def _cpu(variant: str) -> Callable[[Rows], Ratio]:
    return lambda rows: compare(rows, variant, overhead.BASELINE).cpu_ratio


def _clock(variant: str) -> Callable[[Rows], Ratio]:
    return lambda rows: compare(rows, variant, overhead_ddp.BASELINE).ratio


def _of_model(model: str, variant: str) -> Callable[[Rows], Ratio]:
    def figure(rows: Rows) -> Ratio:
        here = [row for row in rows if (row.part, row.model) == ("step", model)]
        return compare(here, variant, examples_probe.PLAIN).cpu_ratio

    return figure


def _hooks(variant: launch_bound.Variant) -> Callable[[Rows], Ratio]:
    def figure(rows: Rows) -> Ratio:
        here = [row for row in rows if row.part == "tensors"]
        layers = launch_bound.SIZES["whole"].layers
        return median_of([times for _, times in launch_bound.added(here, variant, layers)])

    return figure


def _of_trainer(variant: str) -> Callable[[Rows], Ratio]:
    def figure(rows: Rows) -> Ratio:
        here = [row for row in rows if row.part == "trainer"]
        return compare(here, variant, launch_bound.RUNS[variant].baseline).cpu_ratio

    return figure


def state(found: Ratio, most: float) -> str:
    """Whether an interval lies below the aim.

    >>> state(Ratio(1.01, 1.0, 1.02), 1.02), state(Ratio(1.01, 1.0, 1.03), 1.02)
    ('met', 'open')
    >>> state(Ratio(1.05, 1.04, 1.06), 1.02)
    'missed'
    """
    if math.isnan(found.median):
        return MISSING
    if found.high <= most:
        return "met"
    if found.low > most:
        return "missed"
    return "open"


def table() -> str:
    """A line for each aim."""
    lines = []
    for aim in aims():
        found = aim.found
        command = f"`{aim.benchmark.name}`"
        lines.append((aim.cost, f"{aim.most:g}", interval(found), state(found, aim.most), command))
    return markdown(("cost", "at most", "measured [95 %]", "aim", "benchmark"), lines)
