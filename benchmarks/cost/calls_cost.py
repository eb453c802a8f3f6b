"""What single examples cost where layers are hooked, and where calls of functions are watched.

The unit timed is one training step on the CPU (zero_grad, forward, backward, SGD) outside any
trainer. In every round each variant of a case is visited once, in random order; a visit makes one
untimed step and then ten timed ones. The ten of *every 10th step* hold exactly one measured step.
The figure is the median over rounds of the ratio to the plain steps of the same round, with its
95 % order-statistic interval. Learning rate 0 keeps the weights where they are, so that all
variants see the same gradients in every step.

In the case *transformer, by hand* every layer computes with functions of torch and parameters of
its own, so that no hook covers it: the difference to *transformer* is what the watch on calls
costs.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cost.norm_methods import PLAIN, Case, Ours, Plain, Training
from benchmarks.harness.models import Transformer, resnet
from benchmarks.harness.rounds import CPU_FIRST, Rounds, compare, one_round
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown, number_cell

TIMED_STEPS = 10
VARIANTS: Mapping[str, int | None] = {PLAIN: None, "every step": 1, "every 10th step": 10}


# ---- models -------------------------------------------------------------------------------------


BY_HAND: Mapping[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Linear: lambda own, x: F.linear(x, own.weight, own.bias),
    nn.LayerNorm: lambda own, x: F.layer_norm(x, own.weight.shape, own.weight, own.bias),
    nn.Embedding: lambda own, x: F.embedding(x, own.weight),
}


class OwnLayer(nn.Module):
    """Computes as a layer of torch, with its parameters. No rule for modules knows this class."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._compute = BY_HAND[type(layer)]
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self._compute(self, x)


def by_hand(model: nn.Module) -> nn.Module:
    """The model with layers that no rule for modules knows."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) in BY_HAND:
                setattr(module, name, OwnLayer(child))
    return model


class Encoder(nn.Module):
    """``nn.TransformerEncoder``, whose attention takes its weights apart inside of a function."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, batch_first=True, dropout=0.0
        )
        self.encode = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encode(x).mean(1))


class Recurrent(nn.Module):
    """Two layers of LSTM."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.run = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x)[0].mean(1))


def cases(width: int, layers: int, positions: int, examples: int, image: int) -> dict[str, Case]:
    """All cases, of about these sizes."""
    transformer = functools.partial(Transformer, width, layers, positions)
    tokens, rows = (examples, positions), (examples, positions, width)
    images = (2 * examples, 3, image, image)
    return {
        "transformer": Case("transformer", transformer, tokens),
        "by-hand": Case("transformer, by hand", lambda: by_hand(transformer()), tokens),
        "resnet": Case("ResNet with GroupNorm", lambda: resnet(max(8, width // 8)), images),
        "encoder": Case("nn.TransformerEncoder", lambda: Encoder(width, layers), rows),
        "lstm": Case("nn.LSTM, two layers", lambda: Recurrent(width), rows),
    }


SIZES = {
    "whole": cases(width=256, layers=2, positions=64, examples=16, image=24),
    "tiny": cases(width=16, layers=1, positions=4, examples=3, image=8),
}
CASES = tuple(SIZES["whole"])


# ---- time ---------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a step of a variant took in a round."""

    case: str
    round: int
    place: int
    variant: str
    seconds: float
    cpu_seconds: float
    load: float


def prepared(case: Case, every: int | None) -> Plain:
    """Training of which every so many steps are measured, if any, after its first steps."""
    training = Training.of(case, torch.optim.SGD)
    timed = (1 / TIMED_STEPS,) * TIMED_STEPS
    method = Plain(training, timed=timed)
    if every is not None:
        method = Ours(training, every_n_steps=every, timed=timed, reads=False)
    with method.watching():
        method.warm_up()
    return method


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every case in each round, so that all have equally many where a run is cut off."""
    methods: dict[str, dict[str, Plain]] = {}
    for number, key in itertools.product(range(options.rounds), options.cases):
        case = SIZES[options.size][key]
        if (case.name, number) in done:
            continue
        if key not in methods:
            methods[key] = {name: prepared(case, every) for name, every in VARIANTS.items()}
        here = {name: method.visit for name, method in methods[key].items()}
        yield [Row(case.name, *one) for one in one_round(number, here)]


def table(rows: Sequence[Row]) -> str:
    """Ratios to the plain steps of a case."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        here = [row for row in rows if row.case == case]
        for variant in VARIANTS:
            found = compare(here, variant, PLAIN)
            milliseconds = number_cell(1e3 * found.seconds, ".1f")
            lines.append((case, variant, *found.cells, milliseconds))
    return markdown(("case", "variant", *CPU_FIRST, "step, ms"), lines)


@dataclass(frozen=True, kw_only=True)
class Options(Rounds):
    cases: tuple[str, ...] = option(CASES, "to time", extends=True, choices=CASES)


BENCHMARK = Benchmark(
    name="calls_cost",
    question="What do single examples cost where layers are hooked, and where calls are watched?",
    about=__doc__,
    row=Row,
    key=("case", "round"),
    measure=measure,
    options=Options(rounds=12),
    quick=Options(rounds=1, size="tiny"),
    tables={"calls cost": table},
    minutes=10,
)
