"""What per-example gradient norms cost: the ``examples`` probe beside what a user would pick
instead.

The unit timed is one training step on the CPU (zero_grad, forward, backward, AdamW, and whatever
the variant adds) outside any trainer. In every round each variant of a model is visited once, in
random order; a visit makes an untimed step and then a timed one. The figure is the median over
rounds of the ratio to the plain step of the same round, with its 95 % order-statistic interval.
Learning rate 0 keeps the weights where they are, so that all variants see the same gradients in
every step.

- examples: ``Monitor`` with ``Examples()``, read (``flush``) in every step, which a real run does
  only when it logs.
- every 10th: the measured step, weight 0.1, and the one after it, which takes the hooks off, weight
  0.9: it stands for the nine others of the cycle, though eight of them have no hooks to take off.
- opacus, backpack: in a copy of the model, as they change it; the norms only, from the ordinary
  backward pass.
- vmap: the gradients of all examples by ``torch.func``, at most 2²⁸ numbers at a time; their mean
  is the step's gradient.
- LayerNorm only: the norms of LayerNorm's parameters by hooks (Gray et al. 2024), another and much
  smaller quantity.
- plain again: what the method calls a difference where there is none.

"seen" is the mean of |g_i|² over the examples, relative to vmap's: 1 where the norms are exact,
near 1 for a sketch. Opacus and BackPACK are optional: what is not installed, or does not run on a
model, has a row that says so.
"""

import functools
import importlib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.cost.norm_methods import (
    PLAIN,
    REFERENCE,
    SCALING_VARIANTS,
    VARIANTS,
    Case,
    Plain,
    Training,
    Variant,
    make,
)
from benchmarks.harness.machine import in_own_process, own_peak
from benchmarks.harness.models import Transformer, mlp, resnet
from benchmarks.harness.rounds import CPU_FIRST, compare, median_of, shuffled
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import MISSING, markdown, number_cell


def language(width: int, layers: int, context: int, examples: int, name: str | None = None) -> Case:
    """A transformer's case."""
    build = functools.partial(Transformer, width, layers, context)
    return Case(
        name or f"transformer d={width}, T={context}, batch {examples}", build, (examples, context)
    )


WHOLE = {
    "d256": language(256, 4, 128, 16),
    "d512": language(512, 4, 256, 8),
    "mlp": Case("MLP 784-2048-2048-10, batch 256", lambda: mlp(2048), (256, 1, 28, 28)),
    "resnet": Case("ResNet with GroupNorm, 32×32, batch 64", lambda: resnet(32), (64, 3, 32, 32)),
}
TINY = {
    "d256": language(16, 1, 6, 3),
    "d512": language(32, 1, 8, 2),
    "mlp": Case("MLP 784-16-16-10, batch 4", lambda: mlp(16), (4, 1, 28, 28)),
    "resnet": Case("ResNet with GroupNorm, 8×8, batch 3", lambda: resnet(8), (3, 3, 8, 8)),
}
SCALING = (
    *(language(width, 2, 128, 16, f"d={width}, T=128, batch 16") for width in (128, 256, 512)),
    *(language(256, 2, 2048 // n, n, f"d=256, T={2048 // n}, batch {n}") for n in (32, 8, 2)),
)
TINY_SCALING = (language(16, 1, 4, 4), language(16, 1, 8, 2))


TOKENS = 2048  # in a step of the scaling
MODELS = {False: WHOLE, True: TINY}


class Row(NamedTuple):
    """One visit, or one peak of memory.

    Args:
        part: "step", "scaling" or "memory".
        mean_square: see :meth:`Plain.mean_square`, over all steps so far for the probe.
        mebibytes: peak resident memory of a process of its own.
        note: why there are no numbers.
    """

    part: str
    model: str
    variant: str
    round: int = 0
    place: int = 0
    seconds: float = math.nan
    cpu_seconds: float = math.nan
    mean_square: float = math.nan
    mebibytes: float = math.nan
    note: str = ""
    load: float = math.nan


def time_rounds(
    part: str, case: Case, variants: Sequence[Variant], rounds: int, rare_rounds: int, done: Done
) -> Iterator[list[Row]]:
    """All variants once a round in random order; those that are not frequent in ``rare_rounds``
    evenly spaced rounds.
    """
    missing = [number for number in range(rounds) if (part, case.name, number) not in done]
    if not missing:
        return
    training, methods, rows = Training.of(case), dict[Variant, Plain](), list[Row]()
    for variant in variants:
        method = make(variant, training)
        if isinstance(method, Plain):
            methods[variant] = method
        elif missing[0] == 0:
            rows.append(Row(part, case.name, variant.name, note=method))
    for number in missing:
        is_rare = (number + 1) * rare_rounds // rounds > number * rare_rounds // rounds
        present = [variant for variant in methods if variant.frequent or is_rare]
        for place, variant in enumerate(shuffled(present, number)):
            times, norms = methods[variant].visit(), methods[variant].mean_square()
            row = Row(part, case.name, variant.name, number, place, times.seconds)
            rows.append(row._replace(**times._asdict(), mean_square=norms))
        yield rows
        rows = []


def peaks(
    key: str, variants: Sequence[Variant], options: "Options", done: Done
) -> Iterator[list[Row]]:
    """Peak resident memory of a few steps in a process of their own, all libraries included."""
    case = MODELS[options.tiny][key]
    target = "benchmarks.cost.examples_probe:peak_of"
    for run in range(options.memory_runs):
        if ("memory", case.name, run) in done:
            continue
        rows = []
        for place, variant in enumerate(variants):
            given = (key, variant.name, str(options.tiny))
            answer = in_own_process(target, *given, number=options.threads)
            row = Row("memory", case.name, variant.name, run, place)
            if answer.startswith("not run"):
                rows.append(row._replace(note=answer))
            else:
                rows.append(row._replace(mebibytes=float(answer)))
        yield rows


def peak_of(key: str, name: str, tiny: str) -> float | str:
    """That of this process, MiB, which must have trained nothing before; or why there is none."""
    # in all processes alike: what a library weighs is not what its norms cost
    for optional in ("opacus", "backpack"):
        with suppress(ImportError):
            importlib.import_module(optional)
    (variant,) = [variant for variant in VARIANTS if variant.name == name]
    with quiet():
        method = make(variant, Training.of(MODELS[tiny == "True"][key]))
        if isinstance(method, str):
            return method
        method.visit()
    return own_peak()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks that the other libraries make on every run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*batching rule")  # vmap, of attention
        # Opacus and BackPACK, at the first layer
        warnings.filterwarnings("ignore", message=".*[Ff]ull backward hook")
        yield


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All that was asked for, model by model."""
    wanted = [variant for variant in VARIANTS if variant.name in options.variants]
    rare_rounds = min(options.rare_rounds, options.rounds)
    with quiet():
        for key in options.models:
            case = MODELS[options.tiny][key]
            yield from time_rounds("step", case, wanted, options.rounds, rare_rounds, done)
            yield from peaks(key, wanted, options, done)
        often = options.scaling_rounds
        for case in TINY_SCALING if options.tiny else SCALING:
            yield from time_rounds("scaling", case, SCALING_VARIANTS, often, often, done)


# ---- the tables ---------------------------------------------------------------------------------


def by_model(rows: Sequence[Row], *, scaling: bool) -> dict[str, list[Row]]:
    """The rows of each model, of the scaling or of all else."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if (row.part == "scaling") == scaling:
            found.setdefault(row.model, []).append(row)
    return found


def table(rows: Sequence[Row]) -> str:
    """Every method on every model."""
    lines = []
    for model, here in by_model(rows, scaling=False).items():
        truth = last(r.mean_square for r in here if r.variant == REFERENCE)
        for variant in VARIANTS:
            mine = [row for row in here if row.variant == variant.name]
            note = next((row.note for row in mine if row.note), "")
            if note:
                lines.append((model, variant.name, "0", note, *[MISSING] * 3))
            elif mine:
                seen = last(row.mean_square for row in mine) / truth
                tail = (number_cell(seen, ".4g"), added_memory(here, variant.name))
                found = compare(here, variant.name, PLAIN)
                lines.append((model, variant.name, *found.cells, *tail))
    last_columns = ("seen", "peak memory, MiB added")
    return markdown(("model", "method", *CPU_FIRST, *last_columns), lines)


def added_memory(rows: Sequence[Row], variant: str) -> str:
    """Median peak beyond that of the plain step."""
    peaks = [
        median_of([row.mebibytes for row in rows if row.variant == name and row.mebibytes > 0])
        for name in (variant, PLAIN)
    ]
    return number_cell(peaks[0].median - peaks[1].median, ".0f")


def scaling_table(rows: Sequence[Row]) -> str:
    """Cost against width and length."""
    lines = []
    for model, here in by_model(rows, scaling=True).items():
        for variant in SCALING_VARIANTS[1:]:
            found = compare(here, variant.name, PLAIN)
            added = number_cell(found.cpu_added * 1e6 / TOKENS, ".1f")
            lines.append((model, variant.name, *found.cells, added))
    return markdown(("model", "method", *CPU_FIRST, "CPU time added, µs per token"), lines)


def last(values: Iterable[float]) -> float:
    """The last one that is a number; NaN where none is."""
    return ([math.nan] + [value for value in values if not math.isnan(value)])[-1]


NAMES = tuple(variant.name for variant in VARIANTS)


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    rounds: int = option(40, "rounds of the frequent variants", extends=True)
    rare_rounds: int = option(8, "of these, rounds that hold all variants", extends=True)
    scaling_rounds: int = option(12, "rounds of the second table", extends=True)
    memory_runs: int = option(1, "processes for each model and variant", extends=True)
    models: tuple[str, ...] = option(tuple(WHOLE), "to time", extends=True, choices=tuple(WHOLE))
    variants: tuple[str, ...] = option(NAMES, "to time", choices=NAMES)
    tiny: bool = option(False, "small models")


QUICK = Options(rounds=1, rare_rounds=1, scaling_rounds=1, memory_runs=0, tiny=True)
BENCHMARK = Benchmark(
    name="examples_probe",
    question="What does the examples probe cost beside its alternatives?",
    about=__doc__,
    row=Row,
    key=("part", "model", "round"),
    measure=measure,
    options=Options(),
    quick=replace(QUICK, models=("d256",)),
    tables={"examples probe": table, "examples probe scaling": scaling_table},
    minutes=60,
    needs="opacus, backpack-for-pytorch (optional)",
)
