"""Runs of an MLP on digits, and of variants of it, to a goal on digits that are held out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.atlas.findings_descent import stepper_of
from benchmarks.atlas.findings_tasks import digits_mlp, drawn_from, logits_of, split_flat_digits
from benchmarks.gain.tasks import Batch, Task, cross_entropy
from benchmarks.gain.training import stacked
from benchmarks.harness.spec import Settings, option

TRAINED = 1400
SPACING = 1.03  # a check is so many times later than the one before
PATIENCE = 1.5  # a rate that needs so many times the steps of another one is not the best


class Variant(NamedTuple):
    """What is trained.

    Args:
        than: the variant that it is compared with, from which it differs in one thing.
        smoothing: of the labels.
        trained: digits to draw from.
        width: of the hidden layers.
        depth: number of hidden layers.
        optimizer: "plain" (SGD without momentum), "sgd" (momentum 0.9) or "adam".
        rates: that are tried, relative to those of the options.
    """

    than: str = ""
    smoothing: float = 0.0
    trained: int = TRAINED
    width: int = 64
    depth: int = 1
    optimizer: str = "plain"
    rates: float = 1.0


Variants = Mapping[str, Variant]


class Row(NamedTuple):
    """One run of a variant.

    Args:
        variant: name.
        global_size: batch size, in examples.
        learning_rate: constant.
        seed: of the weights and of the draws.
        steps: to the goal; NaN for a run that was ended before it.
    """

    variant: str
    global_size: int
    learning_rate: float
    seed: int
    steps: float


def smoothed_loss(p: list[Tensor], batch: Batch, *, smoothing: float) -> Tensor:
    """Cross entropy with the share ``smoothing`` of the target spread over all classes."""
    logits = logits_of(p, batch[0])
    uniform = (logits.logsumexp(-1) - logits.mean(-1)).mean(-1)
    return (1 - smoothing) * cross_entropy(logits, batch[1]) + smoothing * uniform


def task_of(variant: Variant) -> Task:
    """The MLP with the loss of a variant."""
    loss = partial(smoothed_loss, smoothing=variant.smoothing)
    return replace(digits_mlp(variant.width, variant.depth), loss=loss)


def wrong_share(task: Task, flat: Tensor, held: Batch) -> Tensor:
    """The share of held-out digits that each lane gets wrong, (lanes,)."""
    with torch.no_grad():
        logits = logits_of(task.split(flat), held[0].expand(len(flat), *held[0].shape))
    return (logits.argmax(-1) != held[1]).double().mean(-1)


@dataclass(frozen=True, kw_only=True)
class VariantOptions(Settings):
    """How variants are trained."""

    sizes: tuple[int, ...] = option((4, 8, 16, 32, 64, 128, 256, 512), "batch sizes", extends=True)
    rates: tuple[float, ...] = option(
        (0.06, 0.09, 0.13, 0.18, 0.25, 0.36, 0.5, 0.7, 1.0, 1.4, 2.0), "learning rates"
    )
    seeds: int = option(16, "of every rate; even ones choose the rate, odd ones report", least=4)
    goal: float = option(0.1, "share of held-out digits that are wrong")
    most_steps: int = option(3000, "of a run")


def runs(name: str, variant: Variant, size: int, options: VariantOptions) -> list[Row]:
    """All rates and seeds of a variant at a batch size, side by side."""
    seeds = options.seeds
    data, held = split_flat_digits(TRAINED)
    data = tuple(part[: variant.trained] for part in data)
    task = task_of(variant)
    rates = [rate * variant.rates for rate in options.rates]
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in range(seeds)]
    weights = torch.stack([task.initial(seed) for seed in range(seeds)])
    stepper = stepper_of(variant.optimizer, weights.repeat(len(rates), 1))
    each = torch.tensor(rates).repeat_interleave(seeds).view(-1, 1)
    crossings = Crossings(len(rates) * seeds, options.goal)
    check = 1
    for step in range(1, options.most_steps + 1):
        batches = [drawn_from(data, generator, size) for generator in draws]
        _, gradient = task.gradients(stepper.flat, stacked(batches, len(rates)))
        stepper.step(gradient, each)
        if step < check:
            continue
        check = max(step + 1, math.ceil(SPACING * step))
        crossings.add(step, wrong_share(task, stepper.flat, held).numpy())
        slowest = crossings.steps.reshape(len(rates), -1).max(1)
        if step > PATIENCE * slowest.min():
            break
    found = []
    lanes = [(rate, seed) for rate in rates for seed in range(seeds)]
    for (rate, seed), steps in zip(lanes, crossings.steps.tolist(), strict=True):
        found.append(Row(name, size, rate, seed, steps if math.isfinite(steps) else math.nan))
    return found


class Crossings:
    """When each lane first came down to the goal, on a straight line between two checks."""

    def __init__(self, lanes: int, goal: float) -> None:
        self.steps = np.full(lanes, math.inf)
        self._goal = goal
        self._before = (0, np.ones(lanes))

    def add(self, step: int, values: np.ndarray) -> None:
        """One check of all lanes; a value that is not a number is not below the goal."""
        start, earlier = self._before
        new = (values <= self._goal) & np.isinf(self.steps)
        drop = np.where(new, earlier - values, 1.0)
        share = (earlier - self._goal) / np.where(drop > 0, drop, 1.0)
        crossed = start + np.clip(share, 0, 1) * (step - start)
        self.steps = np.where(new, crossed, self.steps)
        self._before = (step, values)
