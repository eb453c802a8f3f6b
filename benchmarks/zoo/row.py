"""A line of the zoo's table, and the file that keeps all of them."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """What was found for one model.

    Numbers that could not be determined are NaN, and texts that say nothing are "".

    Args:
        name, package, version: of the model, and of the package that defines it.
        parameters: trainable numbers.
        batch_norm: whether BatchNorm in train mode ties the examples together.
        oracle: "" where the loop over single examples is a valid oracle; otherwise why not.
        precision: of the exact run and of its oracle, in bits.
        outcome: with default arguments, without accumulation: "measured", "refused", "not measured"
            (no step gave a row) or "failed" (an error that is none of the package's).
        code, reason, passes: of a refusal or an error, and the backward passes before it.
        share_parameters, share_grad_sq: covered, of the parameters (by the probe's account) and of
            |ḡ|² (by the oracle).
        left_out: parameters that are not covered, by cause.
        sketched: relative error of the mean of q_small over the measured steps.
        standard_error: of that mean, relative to the truth.
        q_big: largest relative error of |ḡ|² in these steps.
        exact_small, exact_big: largest relative errors of exact norms of the covered part, however
            small that is.
        identical: "yes" where gradients, weights and random state are bit-identical to those of a
            run without the callback, in all steps that were made; "" where no step was made.
        split_outcome, split_reason: with accumulation of two micro-batches.
        split_small, split_big: largest relative errors there.
        split_identical: as ``identical``.
    """

    name: str
    package: str
    version: str = ""
    parameters: int = 0
    batch_norm: bool = False
    oracle: str = ""
    precision: int = 0
    outcome: str = "failed"
    code: str = ""
    reason: str = ""
    passes: int = 0
    share_parameters: float = float("nan")
    share_grad_sq: float = float("nan")
    left_out: str = ""
    sketched: float = float("nan")
    standard_error: float = float("nan")
    q_big: float = float("nan")
    exact_small: float = float("nan")
    exact_big: float = float("nan")
    identical: str = ""
    split_outcome: str = "failed"
    split_reason: str = ""
    split_small: float = float("nan")
    split_big: float = float("nan")
    split_identical: str = ""

    @property
    def measured(self) -> bool:
        """Whether it was measured with nothing changed."""
        return self.outcome == "measured"

    @property
    def standard_errors(self) -> float:
        """The error of the sketched norm in standard errors; 0 where rounding explains it."""
        if abs(self.sketched) < ROUNDING:
            return 0.0
        if self.standard_error == 0:
            return math.inf
        return abs(self.sketched) / self.standard_error


ROUNDING = 1e-4  # relative; in single precision
KINDS = Row.__annotations__


def cell(value: str | float | bool) -> str:
    """As it is written: four digits are enough, and stay the same when a file is read and written
    again.
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parsed(row: dict[str, str]) -> Row:
    """A line of the file."""
    values = {}
    for name, text in row.items():
        kind = KINDS[name]
        values[name] = text == "True" if kind is bool else kind(text)
    return Row(**values)


def load(path: Path) -> list[Row]:
    """All rows of a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [parsed(row) for row in csv.DictReader(file)]


def save(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file at once, so that a run that is interrupted leaves a whole one."""
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([cell(value) for value in row] for row in rows)
    part.replace(path)
