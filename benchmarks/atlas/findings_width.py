"""B_simple against the width of a model, at equal training loss.

MLPs with 16 to 256 hidden units learn scikit-learn's digits by SGD without momentum at batch size
32 and two constant rates, eight seeds each. |G|² and tr(Σ) are measured on fresh examples at checks
that are 5 % of the steps apart and pooled where the training loss is within a quarter of an octave
of a level. McCandlish et al. 2018 find that the noise scale depends on the size of a model mostly
through the loss that it has reached. Intervals are jackknives over seeds.
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

WIDTH = Varied(noun="width", axis="hidden units", of=lambda row: row.width)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All widths and rates."""
    for width, rate in product(options.widths, options.rates):
        if (width, rate) not in done:
            yield options.rows_of(options.setting(rate, task=digits_mlp(width), width=width))


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple against width, a panel for each rate."""
    findings_models.draw(rows, path, WIDTH)


@dataclass(frozen=True, kw_only=True)
class Options(DescentOptions):
    widths: tuple[int, ...] = option((16, 32, 64, 128, 256), "hidden units", extends=True)


BENCHMARK = Benchmark(
    name="atlas_width",
    question="Does B_simple depend on the width of a model at equal loss?",
    about=__doc__,
    row=Row,
    key=("width", "learning_rate"),
    measure=measure,
    options=Options(),
    quick=Options(widths=(16, 32), rates=(0.2,), seeds=2, lowest=1.0),
    tables={"atlas width": partial(findings_models.table, varied=WIDTH)},
    minutes=2,
    draw=draw,
    order=lambda row: (row.width, row.learning_rate, row.seed, -row.level),
)
