"""What the callback costs in every step of a transformer of 10 M parameters, against the same run
without it.

The unit timed is one whole optimizer step as a user of Lightning sees it: K micro-batches, the
optimizer, every hook, logging and the loop in between, from the end of one step to the end of the
next. Within a round all variants run in random order, each fit giving one untimed step and then ten
timed ones; the figure is the median over rounds of the ratio to the baseline of the same round. Ten
steps hold exactly one log step (log_every_n_steps=10, where Lightning's default is 50) and, with
every_n_steps=10, exactly one measured step.

To add a row, add a Variant; one that has other trainer options (another strategy, more devices)
names its own baseline.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.lightning_runs import StepClock, Trained, Variant, fit
from benchmarks.harness.models import EncoderLM, random_tokens
from benchmarks.harness.rounds import Rounds, Times, Visit, one_round, ratio_table
from benchmarks.harness.spec import Benchmark, Done
from lightning_noise import GradientNoiseScale

TIMED_STEPS = 10
BASELINE = "no callback"
VARIANTS = (
    Variant(BASELINE, list),
    Variant("micro_batches, every step", lambda: [GradientNoiseScale(probe="micro_batches")]),
    Variant(
        "micro_batches, every 10th step",
        lambda: [GradientNoiseScale(probe="micro_batches", every_n_steps=10)],
    ),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


class Size(NamedTuple):
    """The training set-up: a transformer of about 12 · layers · width² parameters, and what one
    optimizer step sees.
    """

    width: int
    layers: int
    context: int
    local_size: int
    accumulation: int

    def model(self) -> Trained:
        """From a fixed seed."""
        torch.manual_seed(0)
        return Trained(EncoderLM(self.width, self.layers, self.context))


SIZES = {
    "whole": Size(width=384, layers=6, context=128, local_size=4, accumulation=4),
    "tiny": Size(width=32, layers=1, context=8, local_size=2, accumulation=4),
}


def train(variant: Variant, module: Trained, size: Size, steps: int, watcher: Callback) -> None:
    """Trains for ``steps`` optimizer steps on random tokens, all in memory."""
    tokens = random_tokens(size.local_size * size.accumulation * steps, size.context)
    loader = DataLoader(TensorDataset(tokens), batch_size=size.local_size)
    options = {"max_steps": steps, "accumulate_grad_batches": size.accumulation}
    callbacks = (*variant.callbacks(), watcher)
    fit(module, loader, *callbacks, **options | dict(variant.trainer_options))


def times_of(variant: Variant, module: Trained, size: Size) -> Times:
    """One untimed step, then the timed ones."""
    clock = StepClock(untimed=1, timed=TIMED_STEPS)
    train(variant, module, size, TIMED_STEPS + 1, clock)
    return clock.times


def measure(options: Rounds, done: Done) -> Iterator[list[Visit]]:
    """Round after round."""
    size = SIZES[options.size]
    module = size.model()
    visits = {v.name: functools.partial(times_of, v, module, size) for v in VARIANTS}
    for number in range(options.rounds):
        if (number,) not in done:
            yield one_round(number, visits)


def table(rows: Sequence[Visit]) -> str:
    """Ratios to the baseline."""
    return ratio_table(rows, {variant.name: variant.baseline for variant in VARIANTS})


BENCHMARK = Benchmark(
    name="overhead",
    question="What does the callback add to a step of Lightning's Trainer?",
    about=__doc__,
    row=Visit,
    key=("round",),
    measure=measure,
    options=Rounds(),
    quick=Rounds(rounds=1, size="tiny"),
    tables={"overhead": table},
    minutes=40,
)
