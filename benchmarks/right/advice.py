"""Is the verdict's advice right, and does the advised change do what the verdict says?

Six situations whose right answer is known, each a fit of Lightning's with the callback. The problem
is linear regression, loss (x·w − y)²/2 with x ~ N(0, I_d) and label noise of variance s². At a
distance δ from the optimum its noise scale is exactly d + 1 + d·s²/|δ|²; without label noise it is
d + 1 = 100 at all weights.

Where the verdict has a change to advise, or a doubling to price, plain loops then train from fresh
weights to a fixed loss, at the size of the fit and at the other one, with the learning rate times
the verdict's factor. *Predicted* is its factor on the number of steps, over the interval of the
noise scale; *measured* is the ratio of the trained steps with its standard error. The rates are
3 % of the best, so that a step achieves little, as the large-batch model assumes.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.lightning_runs import fit
from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import MISSING, markdown, noise_scale_cell
from lightning_noise import GradientNoiseScale
from lightning_noise.core.advice import Step
from lightning_noise.say.verdict import Verdict

SHARE = 0.03  # of the best learning rate
GOAL = math.exp(-1.5)  # |δ|² at the end of a run, relative to its start


class Case(NamedTuple):
    """A fit, and what its verdict should say.

    Args:
        name: of the situation.
        size: batch size.
        steps: optimizer steps.
        answer: the right one of ``core.advice.Situation``.
        label_variance: s².
        distance: |δ| at the start.
        cosine: whether the learning rate decays to zero.
        examples: of the data set, where it is repeated.
        d: number of weights; few of them make a noise scale that is hard to measure.
    """

    name: str
    size: int
    steps: int
    answer: str
    label_variance: float = 0.0
    distance: float = 1.0
    cosine: bool = False
    examples: int | None = None
    d: int = 99


CASES = (
    Case("far too small", 8, 300, "too small"),
    Case("right", 100, 100, "about right"),
    Case("far too large", 1600, 60, "too large"),
    Case("too few steps to tell", 128, 12, "undetermined", 100.0, d=4),
    Case("decaying schedule", 16, 400, "too small", 1.0, 3.0, cosine=True),
    Case("small data set", 16, 400, "undetermined", examples=128),
)


class Row(NamedTuple):
    """One situation; NaN where there is nothing to predict, or no such end."""

    situation: str
    size: int
    exact: float
    noise_scale: float
    low: float
    high: float
    right_answer: str
    answer: str
    other_size: float
    predicted: float
    predicted_low: float
    predicted_high: float
    measured: float
    standard_error: float


def rate_of(case: Case) -> float:
    """A share of the best learning rate without label noise, 1/(1 + (d + 1)/B)."""
    return SHARE / (1 + (case.d + 1) / case.size)


class Regression(L.LightningModule):
    """The optimal weights are zero; keeps |δ|² before each step."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.layer = torch.nn.Linear(case.d, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.fill_(case.distance / case.d**0.5)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return (self.layer(x).squeeze(1) - y).square().mean() / 2

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.SGD(self.parameters(), lr=rate_of(self.case))
        if not self.case.cosine:
            return optimizer
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.case.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class Distances(Callback):
    """|δ|² before each step."""

    def __init__(self) -> None:
        self.squares: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Regression, *_: object) -> None:
        self.squares.append(float(pl_module.layer.weight.detach().square().sum()))


def draw(case: Case, examples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Inputs (examples, d) and targets (examples,), label noise alone."""
    x = torch.randn(examples, case.d, generator=generator)
    return x, case.label_variance**0.5 * torch.randn(examples, generator=generator)


def verdict_of(case: Case, seed: int) -> tuple[Verdict, float]:
    """What the callback says at the end, and the exact noise scale where its advice rests."""
    generator = Generator().manual_seed(seed)
    examples = case.examples or case.size * case.steps
    loader = DataLoader(
        TensorDataset(*draw(case, examples, generator)),
        batch_size=case.size,
        shuffle=True,
        drop_last=True,
        generator=generator,
    )
    callback = GradientNoiseScale(verbose=False)
    distances = Distances()
    fit(Regression(case), loader, callback, distances, max_steps=case.steps, max_epochs=-1)
    verdict = callback.verdict()
    assert verdict is not None, "the callback has measured nothing"
    basis = verdict.basis
    place = len(distances.squares) - 1
    if basis is not None and basis.step is not None:
        place = min(place, basis.step)
    exact = case.d + 1 + case.d * case.label_variance / distances.squares[place]
    return verdict, exact


def steps_to_goal(case: Case, size: int, rate: float, seed: int) -> float:
    """Steps until |δ|² has fallen to its goal, between two steps by a straight line in ln |δ|²."""
    generator = Generator().manual_seed(seed)
    weights = torch.full((case.d,), case.distance / case.d**0.5)
    start = before = float(weights.square().sum())
    steps = 0
    while True:
        x, y = draw(case, size, generator)
        weights -= rate * (x.T @ (x @ weights - y)) / size
        steps += 1
        after = float(weights.square().sum())
        if after <= GOAL * start:
            return steps - math.log(GOAL * start / after) / math.log(before / after)
        before = after


def measured_factor(case: Case, step: Step, runs: int) -> tuple[float, float]:
    """The ratio of the mean steps at the two sizes, and its standard error."""
    rate = rate_of(case)
    other = round(step.size)
    here = [steps_to_goal(case, case.size, rate, seed) for seed in range(runs)]
    there = [steps_to_goal(case, other, rate * step.gain, 1000 + seed) for seed in range(runs)]
    ratio = statistics.fmean(there) / statistics.fmean(here)
    spread = 0.0
    for found in (here, there):
        spread += statistics.variance(found) / runs / statistics.fmean(found) ** 2
    return ratio, ratio * math.sqrt(spread)


def evaluate(case: Case, runs: int, seed: int) -> Row:
    """The fit, and the training after it."""
    verdict, exact = verdict_of(case, seed)
    advice = verdict.advice
    basis = verdict.basis
    assert advice is not None and basis is not None, "the batch size is known"
    found = [nan_if_none(end) for end in (basis.b, basis.low, basis.high)]
    if case.examples:
        exact = math.nan  # of repeated examples there is no noise scale of new data
    step = advice.change or advice.doubling
    predicted = (math.nan,) * 3
    measured = (math.nan, math.nan)
    other = math.nan
    if step is not None:
        other = step.size
        predicted = tuple(map(nan_if_none, (step.steps.value, step.steps.low, step.steps.high)))
        if not case.label_variance:
            measured = measured_factor(case, step, runs)
    answers = (case.answer, advice.situation.value)
    return Row(case.name, case.size, exact, *found, *answers, other, *predicted, *measured)


def nan_if_none(value: float | None) -> float:
    """A number, or NaN for what is not known."""
    return math.nan if value is None else float(value)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every situation."""
    for case in CASES:
        if (case.name,) not in done:
            yield [evaluate(case, options.runs, options.seed)]


def table(rows: Sequence[Row]) -> str:
    """The answers, and the factors on the number of steps."""
    lines = []
    for row in rows:
        known = (row.noise_scale, row.low, row.high)
        ends = [None if math.isnan(end) else end for end in known]
        change = predicted = measured = MISSING
        if not math.isnan(row.other_size):
            change = f"{row.size} → {row.other_size:.0f}"
            predicted = f"{row.predicted:.3g} [{row.predicted_low:.3g}, {row.predicted_high:.3g}]"
        if not math.isnan(row.measured):
            measured = f"{row.measured:.3g} ± {row.standard_error:.2g}"
        exact = MISSING if math.isnan(row.exact) else f"{row.exact:.3g}"
        answers = (row.right_answer, row.answer)
        seen = noise_scale_cell(*ends)
        lines.append((row.situation, exact, seen, *answers, change, predicted, measured))
    head = ("situation", "noise scale, exact", "measured", "right answer", "verdict")
    return markdown((*head, "change", "steps, predicted", "steps, trained"), lines)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    runs: int = option(40, "trained at each of two sizes", least=2)
    seed: int = option(0, "of the fits")


BENCHMARK = Benchmark(
    name="advice",
    question="Is the verdict's advice right, and does the advised change do what it says?",
    about=__doc__,
    row=Row,
    key=("situation",),
    measure=measure,
    options=Options(),
    quick=Options(runs=2),
    tables={"advice": table},
    minutes=0.5,
)
