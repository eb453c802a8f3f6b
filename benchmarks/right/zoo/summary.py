"""What the zoo shows as a whole: counts, and the largest errors."""

import math
from collections.abc import Callable, Iterable, Sequence
from textwrap import fill

from benchmarks.harness.tables import markdown
from benchmarks.right.zoo.row import Row
from benchmarks.right.zoo.tables import covered

WIDTH = 100  # of a line


def is_a_model(row: Row) -> bool:
    """Every row is."""
    return bool(row.name)


def is_coupled(row: Row) -> bool:
    """Whether something other than BatchNorm ties the examples of a batch together."""
    return not row.batch_norm and bool(row.oracle)


def is_independent(row: Row) -> bool:
    """Whether every example has a gradient of its own."""
    return not row.batch_norm and not row.oracle


def versions(rows: Iterable[Row]) -> str:
    """Of all packages, in the order of the zoo."""
    found = dict.fromkeys(f"{row.package} {row.version}" for row in rows if row.version)
    return fill(", ".join(found) + ".", WIDTH)


def summary(rows: Sequence[Row]) -> str:
    """Counts, by kind of model."""
    counted: list[tuple[str, Callable[[Row], bool]]] = [
        ("models", is_a_model),
        ("measured with nothing changed", lambda row: row.measured),
        ("of these, at least 0.99 of the squared gradient covered", is_well_covered),
        ("refused before training", lambda row: row.outcome == "refused" and row.passes == 0),
        ("refused in the first step", lambda row: row.outcome == "refused" and row.passes > 0),
        ("training went on without a number", lambda row: row.outcome == "not measured"),
        ("failed", lambda row: row.outcome == "failed"),
        ("measured with split=2", lambda row: row.split_outcome == "measured"),
    ]
    kinds = (
        list(rows),
        [row for row in rows if is_independent(row)],
        [row for row in rows if row.batch_norm],
        [row for row in rows if is_coupled(row)],
    )
    lines = []
    for name, holds in counted:
        lines.append((name, *(share(kind, holds) for kind in kinds)))
    head = ("", "all models", "examples independent", "BatchNorm in train mode")
    return markdown((*head, "loss couples the examples"), lines)


def is_well_covered(row: Row) -> bool:
    """The part that is left out is too small to matter."""
    return row.measured and row.share_grad_sq >= 0.99


def share(rows: Sequence[Row], holds: Callable[[Row], bool]) -> str:
    """How many, and what part of the kind."""
    number = sum(holds(row) for row in rows)
    if number in (0, len(rows)):
        return str(number)
    return f"{number} ({number / len(rows):.0%})"


def findings(rows: Sequence[Row]) -> str:
    """The largest errors, and gradients that differ."""
    both = [row.identical for row in rows] + [row.split_identical for row in rows]
    compared = [said for said in both if said]
    doubted = [row for row in rows if row.measured and row.oracle]
    double = [row for row in rows if row.precision == 64]
    single = [row for row in rows if row.precision == 32]
    sketched = [row for row in rows if row.measured and not row.oracle]
    lines = [
        f"- largest error of an exact norm: {largest(double, exact_error)} in fp64, and "
        f"{largest(single, exact_error)} in fp32",
        f"- largest error of a sketched norm: {largest(sketched, errors_in_deviations)} standard "
        f"errors, over {len(sketched)} models",
        f"- root mean square of these distances: {root_mean_square(sketched):.2f} standard errors "
        "(1 where the sketch has no bias and its standard error is right)",
        f"- largest error of q_big beside a sketched norm: {largest(sketched, big_error)}",
        f"- largest error with `split=2`: {largest(rows, split_error)}",
        f"- gradients, weights and random state bit-identical: {compared.count('yes')} of "
        f"{len(compared)} runs",
        f"- smallest share of the squared gradient covered where measured: {smallest(sketched)}",
        f"- measured although the examples' gradients do not add up to the batch's: {len(doubted)}",
    ]
    return "\n".join(fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def root_mean_square(rows: Iterable[Row]) -> float:
    """Of the distances, over the models in which the sketch has an error."""
    found = [row.standard_errors**2 for row in rows if row.standard_errors > 0]
    return math.sqrt(sum(found) / len(found)) if found else 0.0


def smallest(rows: Iterable[Row]) -> str:
    """The smallest covered share, and the model that has it."""
    row = min(rows, key=share_of_gradient, default=None)
    return "none" if row is None else f"{covered(row.share_grad_sq)} ({row.name}, {row.package})"


def share_of_gradient(row: Row) -> float:
    return row.share_grad_sq


def exact_error(row: Row) -> float:
    return max(row.exact_small, row.exact_big)


def big_error(row: Row) -> float:
    return row.q_big


def split_error(row: Row) -> float:
    return max(row.split_small, row.split_big)


def errors_in_deviations(row: Row) -> float:
    return row.standard_errors


def largest(rows: Iterable[Row], error: Callable[[Row], float]) -> str:
    """The largest error, and the model that has it."""
    known = [(error(row), row) for row in rows if not math.isnan(error(row))]
    if not known:
        return "none"
    value, row = max(known, key=lambda pair: pair[0])
    return f"{value:.2g} ({row.name}, {row.package})"
