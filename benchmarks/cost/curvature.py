"""What a curvature probe costs.

A small transformer (without attention's fused kernel, which has no double backward on the CPU) and
the CNN of ``examples/digits.py`` train with K micro-batches per step. Steps with a probe and steps
without alternate, so that a busy machine slows both alike; a line gives the median cost of a probe
in units of a plain step, and the overhead of a run at the default cadence, 1 + cost/100. The time
of a step is that of the process, not the wall's.

The committed figures were taken of a transformer without the mask, the table of positions and the
last norm that the shared one has.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.harness.digits import DigitsNet, loss_of
from benchmarks.harness.models import Transformer, parameters_of, random_tokens
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import markdown
from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.measure.what import CURVATURE_EVERY
from lightning_noise.probes.second_derivatives import hessian_forms


class Row(NamedTuple):
    """One model and accumulation; times in milliseconds.

    Args:
        cost: of a probe, in plain steps.
        overhead: relative time of a run at the default cadence.
    """

    model: str
    parameters: int
    micro_batches: int
    plain_step: float
    probe_step: float
    cost: float
    overhead: float


def cost(
    name: str,
    module: nn.Module,
    loss: Callable[[nn.Module, object], torch.Tensor],
    batches: Sequence[object],
    groups: int,
    pairs: int,
) -> Row:
    """Alternates steps with and without a probe."""
    parameters, size = list(module.parameters()), len(batches)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * pairs + 2):
        probing = turn % 2 == 1
        optimizer.zero_grad()
        start = time.process_time()
        window = Accumulated(parameters, groups - 1) if probing else None
        for index in range(groups):
            value = loss(module, batches[(turn * groups + index) % size]) / groups
            if window is not None and window.is_complete:
                window.probe(
                    hessian_forms(value, parameters, window.vectors()) * groups, 1 / groups
                )
                window = None
            value.backward()
            if window is not None:
                window.add(1.0)
        optimizer.step()
        if turn > 1:  # the first two warm up
            times[probing].append(time.process_time() - start)
    plain, probed = (1000 * statistics.median(times[key]) for key in (False, True))
    share = (probed - plain) / plain
    return Row(
        name, parameters_of(module), groups, plain, probed, share, 1 + share / CURVATURE_EVERY
    )


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Both models with three and with eight micro-batches."""
    torch.manual_seed(0)
    images = [(torch.randn(32, 1, 8, 8), torch.randint(10, (32,))) for _ in range(8)]
    tokens = [random_tokens(8, 64, 128, seed) for seed in range(8)]
    cases = (
        ("digits CNN, 32 images", lambda: DigitsNet(0.1), loss_of, images),
        ("transformer, 8 x 64 tokens", language_model, Transformer.loss, tokens),
    )
    for micro_batches in (3, 8):
        for name, build, loss, batches in cases:
            if (name, micro_batches) not in done:
                row = cost(name, build(), loss, batches, micro_batches, options.pairs)
                yield [row]


def language_model() -> Transformer:
    """Without attention's fused kernel."""
    return Transformer(128, 3, 64, 128, heads=4, fused=False)


def table(rows: Sequence[Row]) -> str:
    """What a probe costs."""
    lines = []
    for row in rows:
        head = (row.model, f"{row.parameters:,}", str(row.micro_batches))
        lines.append((*head, f"{row.cost:.2f}", f"{row.overhead:.3f}"))
    found = ("cost of a probe, in plain steps", "relative run time at one probe per 100 steps")
    return markdown(("model", "parameters", "micro-batches per step", *found), lines)


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    pairs: int = option(30, "steps with and without a probe")


BENCHMARK = Benchmark(
    name="curvature",
    question="What does a curvature probe cost?",
    about=__doc__,
    row=Row,
    key=("model", "micro_batches"),
    measure=measure,
    options=Options(),
    quick=Options(pairs=1),
    tables={"curvature": table},
    minutes=1,
    digits=5,
)
