"""What single examples cost where layers are hooked, and where calls of functions are watched.

    python benchmarks/calls_cost.py --rounds 12 [--cases lstm,resnet]

The unit timed is one training step on the CPU (zero_grad, forward, backward, SGD) outside any
trainer. In every round each variant of a case is visited once, in random order; a visit makes one
untimed step and then ten timed ones. The ten of *every 10th step* hold exactly one measured step.
The figure is the median over rounds of the ratio to the plain steps of the same round, with its
95 % order-statistic interval: of CPU time, and of time on the wall's clock. Learning rate 0 keeps
the weights where they are, so that all variants see the same gradients in every step.

In the case *transformer, by hand* every layer computes with functions of torch and parameters of
its own, so that no hook covers it: the difference to *transformer* is what the watch on calls
costs.
"""

import argparse
import csv
import functools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.examples_probe import Block, Residual, Transformer, resnet
from benchmarks.overhead import Ratio, machine, median_interval
from lightning_noise.hosts.loop import Monitor
from lightning_noise.probes.examples import Examples

RESULTS = Path(__file__).parent / "results" / "calls_cost.csv"
TIMED_STEPS = 10
PLAIN = "plain"
VARIANTS: Mapping[str, int | None] = {PLAIN: None, "every step": 1, "every 10th step": 10}


# ---- models -------------------------------------------------------------------------------------


class OwnLinear(nn.Module):
    """As ``nn.Linear``, which hooks know and this class is not."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class OwnNorm(nn.Module):
    """As ``nn.LayerNorm``."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.shape = layer.normalized_shape

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias)


class OwnTable(nn.Module):
    """As ``nn.Embedding``."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


OWN: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Linear: OwnLinear,
    nn.LayerNorm: OwnNorm,
    nn.Embedding: OwnTable,
}


def by_hand(model: nn.Module) -> nn.Module:
    """The model with layers that no rule for modules knows."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) in OWN:
                setattr(module, name, OWN[type(child)](child))
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


class Case(NamedTuple):
    """A model and its batch.

    Args:
        name: in the table.
        build: the model.
        shape: of the inputs, examples first; two dimensions are tokens.
        blocks: the class of modules that are checkpointed in the part on memory.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    blocks: type[nn.Module]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Random inputs and targets."""
        if len(self.shape) == 2:
            tokens = torch.randint(256, (self.shape[0], self.shape[1] + 1))
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return torch.randn(self.shape), torch.randint(10, self.shape[:1])


def cases(width: int, layers: int, positions: int, examples: int, image: int) -> dict[str, Case]:
    """All cases, of about these sizes."""
    transformer = functools.partial(Transformer, width, layers, positions)
    tokens, rows = (examples, positions), (examples, positions, width)
    return {
        "transformer": Case("transformer", transformer, tokens, Block),
        "by-hand": Case("transformer, by hand", lambda: by_hand(transformer()), tokens, Block),
        "resnet": Case(
            "ResNet with GroupNorm",
            lambda: resnet(max(8, width // 8)),
            (2 * examples, 3, image, image),
            Residual,
        ),
        "encoder": Case(
            "nn.TransformerEncoder",
            lambda: Encoder(width, layers),
            rows,
            nn.TransformerEncoderLayer,
        ),
        "lstm": Case("nn.LSTM, two layers", lambda: Recurrent(width), rows, nn.LSTM),
    }


WHOLE = cases(width=256, layers=2, positions=64, examples=16, image=24)
TINY = cases(width=16, layers=1, positions=4, examples=3, image=8)


# ---- one way to train ---------------------------------------------------------------------------


class Training:
    """A model, its optimizer, its one batch, and how often a step is measured, if at all."""

    def __init__(self, case: Case, every: int | None) -> None:
        torch.manual_seed(0)
        self.module = case.build()
        self.inputs, self.targets = case.draw()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.0)
        self._hooks = ExitStack()
        self.monitor: Monitor | None = None
        if every is not None:
            probe = Examples()
            probe.bind(self.module, seed=0)
            self.monitor = Monitor(probe, every_n_steps=every)
            self._hooks.enter_context(self.monitor.attach(dict(self.module.named_parameters())))

    def forward(self) -> Tensor:
        """The loss."""
        outputs = self.module(self.inputs).flatten(0, -2)
        return F.cross_entropy(outputs, self.targets.flatten())

    def step(self, between: Callable[[], None] = lambda: None) -> None:
        """One training step; ``between`` is called after the forward pass."""
        self.optimizer.zero_grad()
        if self.monitor is None:
            loss = self.forward()
            between()
            loss.backward()
        else:
            with self.monitor.micro_batch(size=len(self.inputs)):
                loss = self.forward()
                between()
                loss.backward()
            self.monitor.step()
        self.optimizer.step()

    def settle(self, every: int | None) -> None:
        """Beyond the step with the checks, up to the last step of a cycle."""
        for _ in range(2 * (every or 1) - 1):
            self.step()


# ---- time ---------------------------------------------------------------------------------------


class Timing(NamedTuple):
    """One line of the raw results: what a step of a variant took in a round."""

    case: str
    round: int
    place: int
    variant: str
    seconds: float
    cpu_seconds: float


def visit(training: Training) -> tuple[float, float]:
    """Mean durations of a step by the wall's clock and the processor's, after an untimed step."""
    training.step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(TIMED_STEPS):
        training.step()
    return (time.perf_counter() - wall) / TIMED_STEPS, (time.process_time() - cpu) / TIMED_STEPS


def time_rounds(chosen: Iterable[Case], rounds: int, seed: int = 0) -> Iterator[Timing]:
    """All variants of all cases once a round, in random order."""
    order = random.Random(seed)
    trainings: dict[tuple[str, str], Training] = {}
    for case in chosen:
        for variant, every in VARIANTS.items():
            training = Training(case, every)
            training.settle(every)
            trainings[case.name, variant] = training
    for number in range(rounds):
        shuffled = order.sample(list(trainings), len(trainings))
        for place, (case_name, variant) in enumerate(shuffled):
            seconds, cpu_seconds = visit(trainings[case_name, variant])
            yield Timing(case_name, number, place, variant, seconds, cpu_seconds)


class Row(NamedTuple):
    """One row of the table of times."""

    case: str
    variant: str
    rounds: int
    seconds: float
    cpu_ratio: Ratio
    ratio: Ratio


def paired_ratio(timings: Sequence[Timing], case: str, variant: str, clock: str) -> Ratio:
    """Step time relative to the plain steps of the same round, median over rounds."""
    seconds = {(t.round, t.variant): getattr(t, clock) for t in timings if t.case == case}
    ratios = [
        seconds[number, variant] / seconds[number, PLAIN]
        for number in {number for number, _ in seconds}
    ]
    return Ratio(statistics.median(ratios), *median_interval(ratios))


def summarise(timings: Sequence[Timing]) -> list[Row]:
    """One row for each case and variant."""
    rows: list[Row] = []
    for case in dict.fromkeys(t.case for t in timings):
        for variant in VARIANTS:
            own = [t.seconds for t in timings if (t.case, t.variant) == (case, variant)]
            cpu_ratio = paired_ratio(timings, case, variant, "cpu_seconds")
            ratio = paired_ratio(timings, case, variant, "seconds")
            rows.append(Row(case, variant, len(own), statistics.median(own), cpu_ratio, ratio))
    return rows


# ---- the report ---------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| case | variant | rounds | step, ms | CPU time, ratio [95 %] | wall time, ratio [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = [f"{r.median:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in (row.cpu_ratio, row.ratio)]
        cells = [row.case, row.variant, str(row.rounds), f"{1e3 * row.seconds:.1f}", *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def saving(path: Path, records: Iterable[Timing]) -> Iterator[Timing]:
    """Writes each record as it comes: a run that is cut off leaves what it has measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Timing._fields)
        for record in records:
            writer.writerow([round(x, 6) if isinstance(x, float) else x for x in record])
            file.flush()
            yield record


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(WHOLE))
    parser.add_argument("--tiny", action="store_true", help="small models, for the tests")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", type=Path, default=RESULTS, help="raw times, CSV")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, writes the raw results, prints the table and returns its rows."""
    args = parse(argv)
    if args.threads != torch.get_num_threads():
        torch.set_num_threads(args.threads)
    known = TINY if args.tiny else WHOLE
    chosen = [known[key] for key in args.cases]
    timings = list(saving(args.output, time_rounds(chosen, args.rounds)))
    rows = summarise(timings)
    print(machine(), "", table(rows), sep="\n")
    return rows


if __name__ == "__main__":
    main()
