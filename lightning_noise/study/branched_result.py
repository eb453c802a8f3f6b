"""What branches of a checkpoint found: differences, the critical batch size, the noise scale."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning_noise.core.branches import (
    Bracket,
    Difference,
    Mean,
    default_tolerance,
    differences,
    find_bracket,
    mean_of,
)
from lightning_noise.core.checks import check_number
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.say.log_keys import name_of
from lightning_noise.study.branched_text import summary_of, warnings_of

SIGNS = {"min": 1, "max": -1}  # mode → sign of a difference that is worse


class BranchRun(NamedTuple):
    """One branch.

    Attributes:
        factor: k, its batch size over that of the run.
        global_size: examples in one optimizer step.
        seed: of its data order and of its random state.
        steps: optimizer steps from the checkpoint.
        examples: the same number for every branch.
        learning_rate: of the first parameter group.
        value: of the metric at its end.
        worse: difference from the reference of the same seed, positive where this one is worse.
        seen: examples by the first dimension of its batches; None: not known.
    """

    factor: float
    global_size: int
    seed: int
    steps: int
    examples: int
    learning_rate: float
    value: float
    worse: float
    seen: int | None


@dataclass(frozen=True, kw_only=True)
class BranchedCheck:
    """The branches of a checkpoint and what follows from them, see :func:`branched_check`.

    Args:
        runs: one :class:`BranchRun` per factor and seed.
        metric: the metric.
        mode: "min" or "max", which of its values is better.
        global_size: batch size of the run that the checkpoint is of.
        examples: that each branch trained on.
        start: value of the metric at the checkpoint.
        rate_rule: how the learning rate followed the batch size, in words.
        tolerance: how much worse than the reference is still fine, in units of the metric. None:
            it would be a tenth of what the reference gained, which is not resolved from zero, so
            that nothing is decided. :meth:`with_tolerance` decides with another one.
        is_share: whether ``tolerance`` is that tenth.
        noise_scales: geometry → noise scale at the weights of the checkpoint.
    """

    runs: tuple[BranchRun, ...]
    metric: str
    mode: str
    global_size: int
    examples: int
    start: float
    rate_rule: str
    tolerance: float | None
    is_share: bool
    noise_scales: Mapping[str, NoiseEstimate]

    @property
    def rows(self) -> tuple[Difference, ...]:
        """One :class:`Difference` per batch size, the smallest one (the reference) first."""
        ends: dict[int, list[float]] = {}
        for run in self.runs:
            ends.setdefault(run.global_size, []).append(run.value)
        return differences(ends, sign=SIGNS[self.mode])

    @property
    def gain(self) -> Mean:
        """How much better than at the checkpoint the reference ends, with its interval."""
        return gain_of(self.runs, self.start, self.mode)

    @property
    def bracket(self) -> Bracket | None:
        """Where the critical batch size lies; None without a tolerance."""
        if self.tolerance is None:
            return None
        return find_bracket(self.rows, self.tolerance)

    @property
    def critical(self) -> float | None:
        """The critical batch size at the checkpoint, in examples: where the mean difference crosses
        the tolerance; None where it does not, or where a run of the next size diverged.
        """
        found = self.bracket
        return found and found.critical

    @property
    def low(self) -> float | None:
        """The largest batch size that is surely fine. The reference always is, by definition."""
        found = self.bracket
        return found and found.low

    @property
    def high(self) -> float | None:
        """The smallest batch size that is surely too large; None: not even the largest is."""
        found = self.bracket
        return found and found.high

    @property
    def noise_scale(self) -> NoiseEstimate | None:
        """The first of ``noise_scales``; None where none was measured."""
        return next(iter(self.noise_scales.values()), None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every reason to distrust the result, each with what mends it."""
        return tuple(warnings_of(self))

    def with_tolerance(self, tolerance: float) -> "BranchedCheck":
        """The same branches judged by another tolerance, in units of the metric.

        Raises:
            TypeError, ValueError: it is not a finite number > 0.
        """
        check_tolerance(tolerance)
        return replace(self, tolerance=float(tolerance), is_share=False)

    def summary(self) -> str:
        """The findings as text."""
        return summary_of(self)

    def to_csv(self, path: str | Path) -> None:
        """Writes the branches, one line each."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(BranchRun._fields)
            writer.writerows(self.runs)

    def figure(self, path: str | Path) -> None:
        """Draws the differences against the batch size (needs the extra ``plots``).

        It shows the tolerance, the bracket and the noise scale as well.

        Raises:
            ImportError: matplotlib is not installed.
        """
        # matplotlib is loaded only where something is drawn
        from lightning_noise.report.branch_figure import Branches, draw_branches

        shown = Branches(
            metric=self.metric,
            examples=self.examples,
            differences=self.rows,
            tolerance=self.tolerance,
            bracket=self.bracket,
            noise_scale=self.noise_scale,
            noise_name=name_of(next(iter(self.noise_scales), "euclidean")),
        )
        draw_branches(shown).savefig(path)


def gain_of(runs: Sequence[BranchRun], start: float, mode: str) -> Mean:
    """How much better than ``start`` the branches at the smallest batch size end."""
    first = min(run.global_size for run in runs)
    gains = [SIGNS[mode] * (start - run.value) for run in runs if run.global_size == first]
    if not math.isfinite(start):
        return Mean(math.nan, math.nan, -math.inf, math.inf)
    return mean_of(gains)


def tolerance_of(runs: Sequence[BranchRun], start: float, mode: str) -> float | None:
    """The tolerance where none is given."""
    return default_tolerance(gain_of(runs, start, mode))


def check_tolerance(tolerance: Any) -> None:
    """Refuses what is not a finite number > 0."""
    check_number("tolerance", tolerance, rule="a finite number > 0", lower=0, strict=True)
