"""What measuring costs where launching kernels takes longer than running them: many small tensors,
and a tiny model under Lightning's Trainer.

*Tensors*: 200 linear layers of 16 × 16, that is 400 parameter tensors, on 8 examples, outside any
trainer. The unit timed is a step with one backward pass (or with two, over 4 examples each) and
what the variant adds, without optimizer. The yardstick is *two empty hooks* on every tensor, which
is what any tool pays that looks at every gradient twice. *Bare hooks* are the hooks alone that an
observer of layers needs, on every layer and on every output, and keep what they get. Added times
are per parameter tensor and backward pass.

*Trainer*: an MLP 8-16-2 on batches of 4, its own loop and logging included (a log step every ten).
With micro-batches two batches make a step.

In every round of *tensors* the variants take turns step by step, 30 times in random order with an
untimed step before each timed one, and the median step counts. In every round of *trainer* each
variant makes one run of 200 timed steps, in random order. Times are those of the processor's clock,
over all rounds.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.lightning_runs import StepClock, fit
from benchmarks.harness.rounds import CPU_FIRST, Rounds, Times, compare, median_of, shuffled
from benchmarks.harness.rounds import visit as timed_visit
from benchmarks.harness.spec import Benchmark, Done
from benchmarks.harness.tables import interval, markdown, number_cell
from lightning_noise import GradientNoiseScale
from lightning_noise.hosts.loop import Monitor
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Probe

WIDTH = 16
TENSORS_A_LAYER = 2


class Row(NamedTuple):
    """What a step of a variant took in a round."""

    part: str
    round: int
    place: int
    variant: str
    seconds: float
    cpu_seconds: float
    load: float


class Sizes(NamedTuple):
    """How much is timed."""

    layers: int
    steps: int  # of the small tensors in a round
    fit_steps: int  # of the trainer in a visit


SIZES = {"whole": Sizes(200, 30, 200), "tiny": Sizes(3, 1, 10)}


# ---- many small tensors -------------------------------------------------------------------------


class Stack:
    """A model of small layers, and its training step."""

    def __init__(self, layers: int, passes: int) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(layers)])
        self.inputs = torch.randn(8, WIDTH)
        self.passes = passes

    def step(self) -> None:
        """Forward and backward passes, from gradients that are ``None``."""
        self.module.zero_grad()
        for inputs in self.inputs.chunk(self.passes):
            self.run(inputs)

    def run(self, inputs: Tensor) -> None:
        """One forward and backward pass."""
        (self.module(inputs).square().mean() / self.passes).backward()


class EmptyHooks(Stack):
    """With two hooks on every tensor that do nothing."""

    def __init__(self, layers: int, passes: int) -> None:
        super().__init__(layers, passes)
        for parameter in self.module.parameters():
            for _ in range(2):
                parameter.register_hook(_nothing)


def _nothing(grad: Tensor) -> None:
    """Sees a gradient."""


class BareHooks(Stack):
    """With a hook on every layer, and one on every output, which keep inputs and gradients."""

    def __init__(self, layers: int, passes: int) -> None:
        super().__init__(layers, passes)
        self.seen: list[tuple[Tensor, Tensor]] = []
        for layer in self.module:
            layer.register_forward_hook(self._hook)

    def _hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda grad: self.seen.append((inputs[0], grad)))

    def step(self) -> None:
        """As the plain step; what was kept is dropped."""
        super().step()
        self.seen.clear()


class Measured(Stack):
    """With a probe that measures every step."""

    def __init__(self, layers: int, passes: int, probe: Probe) -> None:
        super().__init__(layers, passes)
        if isinstance(probe, Examples):
            probe.bind(self.module, seed=0)
        self.monitor = Monitor(probe)
        self._attached = ExitStack()
        parameters = dict(self.module.named_parameters())
        self._attached.enter_context(self.monitor.attach(parameters))
        self.step()  # with the checks

    def run(self, inputs: Tensor) -> None:
        """One pass, announced to the monitor."""
        with self.monitor.micro_batch(size=len(inputs), weight=1 / self.passes):
            super().run(inputs)

    def step(self) -> None:
        """As the plain step, announced to the monitor."""
        super().step()
        self.monitor.step()


class Variant(NamedTuple):
    """How to build a stack of so many layers, and how many passes make a step."""

    name: str
    make: Callable[[int], Stack]
    passes: int


PLAIN, EMPTY = "plain", "two empty hooks"
VARIANTS = (
    Variant(PLAIN, lambda layers: Stack(layers, 1), 1),
    Variant(EMPTY, lambda layers: EmptyHooks(layers, 1), 1),
    Variant("bare hooks", lambda layers: BareHooks(layers, 1), 1),
    Variant("examples, every step", lambda layers: Measured(layers, 1, Examples()), 1),
    Variant(f"{PLAIN}, two passes", lambda layers: Stack(layers, 2), 2),
    Variant(f"{EMPTY}, two passes", lambda layers: EmptyHooks(layers, 2), 2),
    Variant("micro_batches, every step", lambda layers: Measured(layers, 2, MicroBatches()), 2),
)


# ---- a tiny model under the trainer -------------------------------------------------------------


class Tiny(L.LightningModule):
    """An MLP 8-16-2."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class TrainerRun(NamedTuple):
    """A variant under the trainer, and what it is compared with."""

    callbacks: Callable[[], list[Callback]]
    accumulation: int
    baseline: str

    def times(self, steps: int) -> Times:
        """Of a step, after some that are not timed."""
        torch.manual_seed(0)
        untimed, clock = 5, StepClock(untimed=5, timed=steps)
        examples = 4 * self.accumulation * (steps + untimed + 1)
        data = TensorDataset(torch.randn(examples, 8), torch.randint(2, (examples,)))
        options = {"max_steps": steps + untimed + 1, "accumulate_grad_batches": self.accumulation}
        fit(
            Tiny(),
            DataLoader(data, batch_size=4, shuffle=True),
            *self.callbacks(),
            clock,
            **options,
        )
        return clock.times


def _callback(probe: str, every_n_steps: int) -> Callable[[], list[Callback]]:
    return lambda: [GradientNoiseScale(probe=probe, every_n_steps=every_n_steps)]


ONE, TWO = "no callback", "no callback, accumulating"
RUNS = {
    ONE: TrainerRun(list, 1, ONE),
    "examples, every step": TrainerRun(_callback("examples", 1), 1, ONE),
    "examples, every 10th step": TrainerRun(_callback("examples", 10), 1, ONE),
    TWO: TrainerRun(list, 2, TWO),
    "micro_batches, every step": TrainerRun(_callback("micro_batches", 1), 2, TWO),
    "micro_batches, every 10th step": TrainerRun(_callback("micro_batches", 10), 2, TWO),
}


# ---- rows and tables ----------------------------------------------------------------------------


def measure(options: Rounds, done: Done) -> Iterator[list[Row]]:
    """Round after round."""
    sizes = SIZES[options.size]
    stacks = {variant.name: variant.make(sizes.layers) for variant in VARIANTS}
    for number in range(options.rounds):
        if ("tensors", number) not in done:
            yield tensors_round(number, stacks, sizes.steps)
        if ("trainer", number) not in done:
            rows = []
            for place, name in enumerate(shuffled(tuple(RUNS), number)):
                rows.append(Row("trainer", number, place, name, *RUNS[name].times(sizes.fit_steps)))
            yield rows


def tensors_round(number: int, stacks: Mapping[str, Stack], steps: int) -> list[Row]:
    """The median step of every variant. Variants take turns step by step: a machine changes its
    pace within seconds.
    """
    found: dict[str, list[Times]] = {name: [] for name in stacks}
    gc.collect()  # a collection of all objects would fall into one of the variants
    for turn in range(steps):
        for name in shuffled(tuple(stacks), turn, seed=number):
            found[name].append(timed_visit(stacks[name].step))
    rows = []
    for place, (name, times) in enumerate(found.items()):
        seconds, cpu_seconds, load = map(statistics.median, zip(*times, strict=True))
        rows.append(Row("tensors", number, place, name, seconds, cpu_seconds, load))
    return rows


def added(rows: Sequence[Row], variant: Variant, layers: int) -> list[tuple[float, float]]:
    """Of every round: CPU time added per tensor and pass in µs, and how many times that of the
    empty hooks it is.
    """
    suffix = ", two passes" if variant.passes == 2 else ""
    by_round: dict[int, dict[str, float]] = {}
    for row in rows:
        by_round.setdefault(row.round, {})[row.variant] = row.cpu_seconds
    found = []
    for times in by_round.values():
        plain = times[PLAIN + suffix]
        own = times[variant.name] - plain
        each = own * 1e6 / (layers * TENSORS_A_LAYER * variant.passes)
        found.append((each, own / (times[EMPTY + suffix] - plain)))
    return found


def tensors_table(rows: Sequence[Row]) -> str:
    """Time per tensor and pass."""
    here = [row for row in rows if row.part == "tensors"]
    lines = []
    for variant in VARIANTS:
        if variant.name.startswith(PLAIN):
            continue
        both = added(here, variant, SIZES["whole"].layers)
        each = median_of([one for one, _ in both])
        times = median_of([ratio for _, ratio in both])
        cells = (interval(each, ".2f"), interval(times, ".2f"))
        lines.append((variant.name, str(len(both)), *cells))
    head = ("variant", "rounds", "µs per tensor and pass [95 %]", "times two empty hooks [95 %]")
    return markdown(head, lines)


def trainer_table(rows: Sequence[Row]) -> str:
    """Ratios of a step of the tiny model."""
    here = [row for row in rows if row.part == "trainer"]
    lines = []
    for variant, run in RUNS.items():
        found = compare(here, variant, run.baseline)
        step = number_cell(1e3 * found.seconds, ".2f")
        lines.append((variant, *found.cells, step))
    return markdown(("variant", *CPU_FIRST, "step, ms"), lines)


BENCHMARK = Benchmark(
    name="launch_bound",
    question="What does measuring cost where launching kernels takes longer than running them?",
    about=__doc__,
    row=Row,
    key=("part", "round"),
    measure=measure,
    options=Rounds(),
    quick=Rounds(rounds=1, size="tiny"),
    tables={"launch bound": tensors_table, "tiny trainer": trainer_table},
    minutes=8,
)
