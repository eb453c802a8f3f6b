"""What momentum, Adam and label smoothing do to the critical batch size.

The MLP of ``atlas_variants`` learns scikit-learn's digits with SGD, with momentum 0.9 and with
Adam, each without and with label smoothing: steps until at most 5 % of 397 digits that it is not
trained on are wrong, a goal at which the largest batches still take some 15 steps. Eight batch
sizes, thirteen learning rates a factor of √2 apart and 24 seeds; twelve of them choose the rate of
a batch size, and the steps are those of the twelve others. Rates with momentum and with Adam are
smaller by a constant factor. Shallue et al. 2018 find that momentum extends perfect scaling to
larger batches, and that regularization may help more at some batch sizes than at others.

Variants share the seeds of weights and draws. B_crit relative to that of another variant therefore
has an interval of its own, a jackknife over pairs of seeds, one that chooses and one that reports:
it holds the scatter of the runs, but not the misfit of the hyperbola.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.atlas import variant_curves
from benchmarks.atlas.variant_runs import Row, Variant, VariantOptions, runs
from benchmarks.harness.spec import Benchmark, Done, option

SGD, MOMENTUM, ADAM = "SGD", "momentum", "Adam"
OF_MOMENTUM, OF_ADAM = 0.3, 0.04  # their rates, relative to those of SGD
PLAIN = {
    SGD: Variant(),
    MOMENTUM: Variant(than=SGD, optimizer="sgd", rates=OF_MOMENTUM),
    ADAM: Variant(than=SGD, optimizer="adam", rates=OF_ADAM),
}
SMOOTHED = {
    f"{name}, smoothed": one._replace(than=name, smoothing=0.1) for name, one in PLAIN.items()
}
VARIANTS = PLAIN | SMOOTHED


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """One batch size of one variant after the other."""
    for name in options.variants:
        for size in options.sizes:
            if (name, size) not in done:
                yield runs(name, VARIANTS[name], size, options)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Steps to the goal against batch size, without and with label smoothing."""
    variant_curves.draw(rows, path, (tuple(PLAIN), tuple(SMOOTHED)), wrong=Options().goal)


@dataclass(frozen=True, kw_only=True)
class Options(VariantOptions):
    variants: tuple[str, ...] = option(
        tuple(VARIANTS), "that are trained", extends=True, choices=tuple(VARIANTS)
    )
    rates: tuple[float, ...] = option(
        (0.04, 0.056, 0.08, 0.11, 0.16, 0.22, 0.32, 0.45, 0.64, 0.9, 1.28, 1.8, 2.56),
        "learning rates of SGD",
    )
    seeds: int = option(24, "of every rate; even ones choose the rate, odd ones report", least=4)
    goal: float = option(0.05, "share of held-out digits that are wrong")


BENCHMARK = Benchmark(
    name="atlas_optimizers",
    question="What do momentum, Adam and label smoothing do to B_crit?",
    about=__doc__,
    row=Row,
    key=("variant", "global_size"),
    measure=measure,
    options=Options(),
    quick=Options(variants=(SGD, MOMENTUM), sizes=(16, 64), rates=(0.32, 0.64), seeds=4, goal=0.4),
    tables={
        "atlas optimizers critical": partial(variant_curves.table, variants=VARIANTS),
        "atlas optimizers rates": partial(variant_curves.rate_table, variants=VARIANTS),
    },
    minutes=10,
    draw=draw,
    order=lambda row: (
        list(VARIANTS).index(row.variant),
        row.global_size,
        row.learning_rate,
        row.seed,
    ),
)
