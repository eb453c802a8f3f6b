"""What the callback measures on models of torchvision, timm, transformers and others.

Every model is measured in another process, so that a crash is a row too. All models have random
weights and small configurations; nothing is downloaded. Where the compiled operators of torchvision
do not load beside a CPU build of torch, ``pip install --no-deps torchvision==0.16.2`` has model
definitions that import without them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.right.zoo import summary, tables
from benchmarks.right.zoo.models.catalogue import BY_KEY, key
from benchmarks.right.zoo.row import Row
from benchmarks.right.zoo.worker import all_rows

ORDER = {name: index for index, name in enumerate(BY_KEY)}


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every model that has no row yet."""
    known = {(entry.package, entry.name): name for name, entry in BY_KEY.items()}
    measured = {known[where] for where in done if where in known}
    waiting = [name for name in options.only if name not in measured]
    for row in all_rows(waiting, options.limit):
        yield [row]


def place_of(row: Row) -> int:
    """In the order of the zoo."""
    return ORDER[key(row)]


@dataclass(frozen=True, kw_only=True)
class Options:
    only: tuple[str, ...] = option(tuple(BY_KEY), "models", extends=True, choices=tuple(BY_KEY))
    limit: float = option(600.0, "seconds for one model", extends=True)


BENCHMARK = Benchmark(
    name="zoo",
    question="What is measured on models that nobody wrote for this package?",
    about=__doc__,
    row=Row,
    key=("package", "name"),
    measure=measure,
    options=Options(),
    quick=Options(only=("torch/MLP with LayerNorm",)),
    tables={
        "zoo packages": summary.versions,
        "zoo summary": summary.summary,
        "zoo findings": summary.findings,
        "zoo single": tables.single_table,
        "zoo split": tables.split_table,
        "zoo left out": tables.left_out_table,
        "zoo refused": tables.refused_list,
    },
    minutes=60,
    needs="pip install '.[zoo]'",
    digits=4,
    order=place_of,
)
