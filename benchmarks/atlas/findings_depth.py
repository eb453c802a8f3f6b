"""B_simple against the depth of a model, at equal training loss.

MLPs with 1 to 8 hidden layers of 64 units learn scikit-learn's digits as those of ``atlas_width``
do: by SGD without momentum at batch size 32 and three constant rates, eight seeds each, with |G|²
and tr(Σ) from fresh examples, pooled near a level of the training loss. Matrices between hidden
layers start as He et al. 2015 say, so that the deepest model learns, too. Shallue et al. 2018
compare models of different depth; McCandlish et al. 2018 find that the noise scale depends on the
size of a model mostly through the loss that it has reached. Intervals are jackknives over seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.atlas import findings_models
from benchmarks.atlas.findings_descent import Row
from benchmarks.atlas.findings_models import DescentOptions, Varied
from benchmarks.atlas.findings_tasks import digits_mlp
from benchmarks.harness.spec import Benchmark, Done, option

DEPTH = Varied(noun="depth", axis="hidden layers", of=lambda row: row.depth)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All depths and rates."""
    for depth, rate in product(options.depths, options.rates):
        if (depth, rate) not in done:
            task = digits_mlp(depth=depth)
            yield options.rows_of(options.setting(rate, task=task, depth=depth))


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple against depth, a panel for each rate."""
    findings_models.draw(rows, path, DEPTH)


@dataclass(frozen=True, kw_only=True)
class Options(DescentOptions):
    depths: tuple[int, ...] = option((1, 2, 4, 8), "hidden layers", extends=True)
    rates: tuple[float, ...] = option((0.0125, 0.05, 0.2), "learning rates")


BENCHMARK = Benchmark(
    name="atlas_depth",
    question="Does B_simple depend on the depth of a model at equal loss?",
    about=__doc__,
    row=Row,
    key=("depth", "learning_rate"),
    measure=measure,
    options=Options(),
    quick=Options(depths=(1, 2), rates=(0.2,), seeds=2, lowest=1.0),
    tables={"atlas depth": partial(findings_models.table, varied=DEPTH)},
    minutes=4,
    draw=draw,
    order=lambda row: (row.depth, row.learning_rate, row.seed, -row.level),
)
