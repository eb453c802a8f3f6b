"""The noise scale of runs at given values of the training loss.

Runs of one setting are trained side by side, one lane for each seed. At checks, which are a fixed
share of the steps apart, the loss is taken on fixed examples, and |G|² and tr(Σ) from groups of
fresh examples that the run does not train on (McCandlish et al. 2018, eq. A.2). Every check goes
into the bin of its loss, half an octave wide, so that runs are compared at equal loss however fast
they fall, and no step is selected because its loss happened to be low.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.atlas.findings_statistics import Bounded, jackknife
from benchmarks.gain.tasks import Batch, Task
from benchmarks.gain.training import Stepper, stacked
from lightning_noise import Moments

SPACING = 1.05  # a check is so many times later than the one before
PER_OCTAVE = 2  # bins of the loss


class Row(NamedTuple):
    """One seed of a setting, and one bin of the training loss.

    Args:
        task: name.
        width: of the hidden layers, where it varies.
        learning_rate: constant.
        global_size: batch size, in examples.
        seed: of the weights and of the draws.
        level: middle of the bin of the loss.
        first_step: of the checks in this bin.
        checks: that the sums are over.
        loss: mean over the checks.
        grad_sq: sum of the unbiased |G|².
        trace: sum of the unbiased tr(Σ) of one example.
        depth: number of hidden layers, where it varies.
        trained: examples of the data set, where it varies.
    """

    task: str
    width: int | None
    learning_rate: float
    global_size: int
    seed: int
    level: float
    first_step: int
    checks: int
    loss: float
    grad_sq: float
    trace: float
    depth: int | None = None
    trained: int | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained and measured.

    Args:
        task: of ``benchmarks.gain.tasks``, or one like them.
        held: fixed examples of the training data that the loss is taken on.
        optimizer: "plain" (SGD without momentum), "sgd" (momentum 0.9) or "adam".
        learning_rate: constant.
        global_size: batch size, in examples.
        lowest: a run ends where the loss of all seeds is below the bin of this level.
        most_steps: or here.
        groups: that |G|² and tr(Σ) come from at each check.
        group_size: examples of each of them.
        width, depth, trained: of the rows.
    """

    task: Task
    held: Batch
    optimizer: str
    learning_rate: float
    global_size: int
    lowest: float
    most_steps: int
    groups: int = 32
    group_size: int = 32
    width: int | None = None
    depth: int | None = None
    trained: int | None = None


class PlainStepper:
    """SGD without momentum on flat parameters."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat  # (lanes, numel)

    def step(self, gradient: Tensor, rates: Tensor | float) -> None:
        """``rates`` is (lanes, 1) or a number."""
        self.flat.sub_(gradient * rates)


def stepper_of(optimizer: str, flat: Tensor) -> PlainStepper | Stepper:
    """The optimizer of a name, on these parameters."""
    if optimizer == "plain":
        return PlainStepper(flat)
    return Stepper(optimizer, flat)


def bin_of(loss: float) -> int:
    """The number of the bin of a loss.

    >>> bin_of(0.5), bin_of(0.45), bin_of(0.4)
    (2, 2, 3)
    """
    return round(-PER_OCTAVE * math.log2(loss))


def level_of(number: int) -> float:
    """The middle of a bin.

    >>> level_of(2)
    0.5
    """
    return 2.0 ** (-number / PER_OCTAVE)


def losses_of(task: Task, flat: Tensor, held: Batch) -> Tensor:
    """Loss of every lane on the same examples, (lanes,)."""
    shared = tuple(part.expand(len(flat), *part.shape) for part in held)
    with torch.no_grad():
        return task.loss(task.split(flat), shared)


def moments_of(
    task: Task, flat: Tensor, draws: Sequence[torch.Generator], groups: int, group_size: int
) -> list[Moments]:
    """Squared gradient norms of every lane on fresh examples."""
    batches = [task.draw(generator, groups * group_size) for generator in draws]
    parts = []
    for part in stacked(batches, 1):
        parts.append(part.reshape(len(flat) * groups, group_size, *part.shape[2:]))
    _, gradient = task.gradients(flat.repeat_interleave(groups, 0), tuple(parts))
    grouped = gradient.view(len(flat), groups, -1).double()
    small = grouped.square().sum(-1).mean(-1)
    big = grouped.mean(1).square().sum(-1)
    found = []
    for q_small, q_big in zip(small.tolist(), big.tolist(), strict=True):
        found.append(Moments(q_small, q_big, 1 / group_size, 1 / (groups * group_size)))
    return found


class Sums:
    """What the checks of one seed in one bin add up to."""

    def __init__(self, first_step: int) -> None:
        self.first_step = first_step
        self.checks = 0
        self.loss = self.grad_sq = self.trace = 0.0

    def add(self, loss: float, moments: Moments) -> None:
        """One more check."""
        self.checks += 1
        self.loss += loss
        self.grad_sq += moments.signal
        self.trace += moments.noise


def descend(setting: Setting, seeds: Sequence[int]) -> list[Row]:
    """Trains all seeds of a setting; a row for every seed and bin of the loss that it was in."""
    task = setting.task
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    fresh = [torch.Generator().manual_seed(20_000 + seed) for seed in seeds]
    stepper = stepper_of(setting.optimizer, torch.stack([task.initial(seed) for seed in seeds]))
    sums: dict[tuple[int, int], Sums] = {}
    end = bin_of(setting.lowest)
    check = 0
    for step in range(setting.most_steps + 1):
        if step >= check:
            check = max(step + 1, math.ceil(SPACING * step))
            losses = losses_of(task, stepper.flat, setting.held).tolist()
            found = moments_of(task, stepper.flat, fresh, setting.groups, setting.group_size)
            note(sums, seeds, step, losses, found)
            if all(is_over(loss, end) for loss in losses):
                break
        batch = stacked([task.draw(generator, setting.global_size) for generator in draws], 1)
        _, gradient = task.gradients(stepper.flat, batch)
        stepper.step(gradient, setting.learning_rate)
    return [row_of(setting, *key, one) for key, one in sorted(sums.items()) if key[1] <= end]


def is_over(loss: float, end: int) -> bool:
    """Whether a run has left its last bin, or has diverged."""
    return not math.isfinite(loss) or loss <= 0 or bin_of(loss) > end


def note(
    sums: dict[tuple[int, int], Sums],
    seeds: Sequence[int],
    step: int,
    losses: Sequence[float],
    found: Sequence[Moments],
) -> None:
    """Adds a check of all seeds; one that has diverged is left out."""
    for seed, loss, moments in zip(seeds, losses, found, strict=True):
        if math.isfinite(loss) and loss > 0 and moments.is_finite:
            sums.setdefault((seed, bin_of(loss)), Sums(step)).add(loss, moments)


def row_of(setting: Setting, seed: int, number: int, one: Sums) -> Row:
    """The sums of a seed and a bin as a line of the file."""
    return Row(
        task=setting.task.name,
        width=setting.width,
        depth=setting.depth,
        trained=setting.trained,
        learning_rate=setting.learning_rate,
        global_size=setting.global_size,
        seed=seed,
        level=level_of(number),
        first_step=one.first_step,
        checks=one.checks,
        loss=one.loss / one.checks,
        grad_sq=one.grad_sq,
        trace=one.trace,
    )


# ---- what the rows say --------------------------------------------------------------------------


def log_b_simple(rows: Iterable[Row], seeds: Collection[int]) -> float:
    """ln of tr(Σ)/|G|², both summed over the checks of these seeds; NaN where either is not
    positive.
    """
    kept = [row for row in rows if row.seed in seeds]
    trace = math.fsum(row.trace for row in kept)
    grad_sq = math.fsum(row.grad_sq for row in kept)
    if trace <= 0 or grad_sq <= 0:
        return math.nan
    return math.log(trace / grad_sq)


def b_simple(rows: Sequence[Row]) -> Bounded:
    """Of all seeds of some rows, with its jackknife interval."""
    seeds = {row.seed for row in rows}
    return jackknife(lambda kept: log_b_simple(rows, kept), seeds).exp()


def at_level(rows: Iterable[Row], level: float) -> list[Row]:
    """The rows of the bin that a loss is in."""
    return [row for row in rows if bin_of(row.level) == bin_of(level)]
