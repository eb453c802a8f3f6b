"""The tables of docs/zoo.md."""

import math
from collections.abc import Iterable

from benchmarks.harness.tables import markdown
from benchmarks.right.zoo.row import Row


def error(value: float) -> str:
    """Of rounding, mostly."""
    return "" if math.isnan(value) else f"{value:.1e}"


def covered(value: float) -> str:
    """A share; never rounded up to the whole."""
    if math.isnan(value):
        return ""
    return f"{math.floor(value * 1000) / 10:.1f} %"


def result(row: Row) -> str:
    """What the callback did, in words."""
    if row.outcome == "refused" and row.passes > 0:
        return "refused in step 1"
    if row.outcome == "failed":
        return f"failed: {escaped(row.reason)}"
    return row.outcome


def sketched_cell(row: Row) -> str:
    """The error, and how many standard errors it is."""
    if math.isnan(row.sketched):
        return ""
    if row.standard_error < 1e-6:
        return f"{abs(row.sketched):.1e}"
    return f"{row.sketched:+.2%} ({row.standard_errors:.1f})"


def exact_cell(row: Row) -> str:
    """The error, and the precision where it is not fp64."""
    return error(row.exact_small) + (" (fp32)" if row.precision == 32 else "")


def single_table(rows: Iterable[Row]) -> str:
    """One row per model."""
    header = (
        "model",
        "package",
        "parameters",
        "result",
        "covered",
        "of the gradient",
        "q_small, sketched",
        "q_small, exact",
        "q_big",
        "same",
    )
    lines = []
    for row in rows:
        line = (
            row.name,
            row.package,
            f"{row.parameters:,}",
            result(row),
            covered(row.share_parameters),
            covered(row.share_grad_sq),
            sketched_cell(row),
            exact_cell(row),
            error(row.q_big),
            row.identical,
        )
        lines.append(line)
    return markdown(header, lines)


def split_table(rows: Iterable[Row]) -> str:
    """One row per model."""
    header = ("model", "package", "result", "q_small", "q_big", "same")
    lines = []
    for row in rows:
        small, big = error(row.split_small), error(row.split_big)
        what = f"{row.split_outcome} {row.split_reason}".strip()
        lines.append((row.name, row.package, escaped(what), small, big, row.split_identical))
    return markdown(header, lines)


def left_out_table(rows: Iterable[Row]) -> str:
    """One row per model of which anything is left out."""
    partly = [row for row in rows if row.left_out]
    lines = [(row.name, row.package, result(row), escaped(row.left_out)) for row in partly]
    return markdown(("model", "package", "result", "left out"), lines)


def refused_list(rows: Iterable[Row]) -> str:
    """The reasons other than a lack of coverage, each with its models."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.outcome in ("refused", "not measured") and not lacks_coverage(row):
            by_reason.setdefault(reason_in_brief(row), []).append(f"{row.name} ({row.package})")
    lines = []
    for reason, names in by_reason.items():
        models = "1 model" if len(names) == 1 else f"{len(names)} models"
        lines.append(f"- {models}: {reason}.\n  {', '.join(names)}.")
    return "\n".join(lines) or "None."


def reason_in_brief(row: Row) -> str:
    """The reason without the names of layers."""
    if row.batch_norm:
        return "BatchNorm in train mode ties the examples of a batch together"
    return escaped(row.reason)


def escaped(text: str) -> str:
    """For a cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*")


def lacks_coverage(row: Row) -> bool:
    """Whether it is refused for what is left out."""
    return "covers less than min_coverage" in row.reason
