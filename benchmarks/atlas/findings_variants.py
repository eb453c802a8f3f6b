"""What the data set, label smoothing, width and depth do to the critical batch size.

An MLP learns scikit-learn's digits by SGD without momentum until it is wrong on at most 10 % of 397
digits that it is not trained on: steps to this goal at eight batch sizes and eleven learning rates,
sixteen seeds each. One thing at a time differs from the plain run, an MLP with one layer of 64
hidden units. The rate of a batch size is chosen on eight seeds, and the steps are those of the
eight others; ``CriticalBatchSize.fit`` puts the hyperbola through them. Shallue et al. 2018 find
that subsets of a data set scale much as all of it does, that models differ in how far they scale,
and that regularization may help more at some batch sizes than at others. All batch sizes have the
same rates to choose from, so that the chosen ones follow no rule beforehand; those of the deeper
models are smaller by a constant factor.

Variants share the seeds of weights and draws. B_crit relative to that of the plain run therefore
has an interval of its own, a jackknife over pairs of seeds, one that chooses and one that reports:
it holds the scatter of the runs, but not the misfit of the hyperbola.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.atlas import variant_curves
from benchmarks.atlas.variant_runs import TRAINED, Row, Variant, VariantOptions, runs
from benchmarks.harness.spec import Benchmark, Done, option

PLAIN = "plain"
DEEP_RATES = 0.4  # a deeper model becomes unstable at smaller rates
OF_DATA = {
    "label smoothing 0.1": Variant(than=PLAIN, smoothing=0.1),
    "half of the data": Variant(than=PLAIN, trained=TRAINED // 2),
    "a quarter of the data": Variant(than=PLAIN, trained=TRAINED // 4),
}
OF_MODELS = {
    "width 16": Variant(than=PLAIN, width=16),
    "width 256": Variant(than=PLAIN, width=256),
    "2 hidden layers": Variant(than=PLAIN, depth=2, rates=DEEP_RATES),
    "4 hidden layers": Variant(than=PLAIN, depth=4, rates=DEEP_RATES),
}
VARIANTS = {PLAIN: Variant(), **OF_DATA, **OF_MODELS}


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """One batch size of one variant after the other."""
    for name in options.variants:
        for size in options.sizes:
            if (name, size) not in done:
                yield runs(name, VARIANTS[name], size, options)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Steps to the goal against batch size, the plain run in both panels."""
    panels = ((PLAIN, *OF_DATA), (PLAIN, *OF_MODELS))
    variant_curves.draw(rows, path, panels, wrong=Options().goal)


@dataclass(frozen=True, kw_only=True)
class Options(VariantOptions):
    variants: tuple[str, ...] = option(
        tuple(VARIANTS), "that are trained", extends=True, choices=tuple(VARIANTS)
    )


BENCHMARK = Benchmark(
    name="atlas_variants",
    question="What do label smoothing, the data set's size, width and depth do to B_crit?",
    about=__doc__,
    row=Row,
    key=("variant", "global_size"),
    measure=measure,
    options=Options(),
    quick=Options(variants=(PLAIN,), sizes=(16, 64), rates=(0.25, 0.5), seeds=4, goal=0.4),
    tables={
        "atlas variants": partial(variant_curves.table, variants=VARIANTS),
        "atlas variants rates": partial(variant_curves.rate_table, variants=VARIANTS),
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
