"""B_simple against the size of the data set, at equal training loss.

MLPs learn subsets of scikit-learn's digits, each drawn with replacement, by SGD without momentum at
batch size 32 and two constant rates, eight seeds each. Loss, |G|² and tr(Σ) are those of the subset
that is trained on, from examples that are drawn from it as a batch is, and pooled near a level of
the training loss. Shallue et al. 2018 find that subsets of a data set scale much as all of it does.
Intervals are jackknives over seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.atlas import findings_models
from benchmarks.atlas.findings_descent import Row, Setting
from benchmarks.atlas.findings_models import DescentOptions, Varied
from benchmarks.atlas.findings_tasks import digits_mlp, drawn_from, split_flat_digits
from benchmarks.harness.spec import Benchmark, Done, option

TRAINED = Varied(noun="digits", axis="digits in the data set", of=lambda row: row.trained)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All sizes and rates."""
    for trained, rate in product(options.trained, options.rates):
        if (trained, rate) not in done:
            yield options.rows_of(setting_of(trained, rate, options))


def setting_of(trained: int, rate: float, options: "Options") -> Setting:
    """An MLP on the first digits of one shuffled order."""
    data, _ = split_flat_digits(trained)
    draw_these = partial(drawn_from, data)
    task = replace(digits_mlp(), draw=draw_these, data_size=trained)
    return options.setting(rate, task=task, held=data, trained=trained)


def draw(rows: Sequence[Row], path: Path) -> None:
    """B_simple against the size of the data set, a panel for each rate."""
    findings_models.draw(rows, path, TRAINED)


@dataclass(frozen=True, kw_only=True)
class Options(DescentOptions):
    trained: tuple[int, ...] = option((112, 225, 450, 900, 1797), "digits", extends=True)


BENCHMARK = Benchmark(
    name="atlas_data",
    question="Does B_simple depend on the size of the data set at equal loss?",
    about=__doc__,
    row=Row,
    key=("trained", "learning_rate"),
    measure=measure,
    options=Options(),
    quick=Options(trained=(225, 450), rates=(0.2,), seeds=2, lowest=1.0),
    tables={"atlas data": partial(findings_models.table, varied=TRAINED)},
    minutes=1,
    draw=draw,
    order=lambda row: (row.trained, row.learning_rate, row.seed, -row.level),
)
