"""The table of a study: one row per run and goal, a list of dictionaries here and CSV on disk.

| column | value |
|---|---|
| ``goal`` | name of the goal; a run has one row for each |
| ``global_size`` | examples in one optimizer step |
| ``seed``, ``trial`` | integers |
| ``phase`` | ``"search"``, ``"repeat"`` (a further seed of a better trial), or ``"rerun"`` |
| ``learning_rate`` | the rate of the run, None where it was not searched |
| ``param_…`` | other searched parameters |
| ``status`` | ``"reached"``, ``"incomplete"`` (the budget ended first) or ``"diverged"`` |
| ``steps``, ``examples`` | at the first crossing of the goal; None otherwise |
| ``best_value`` | best value of the goal's metric in the run; None if there is none |
| ``best`` | the trial is the winner of its batch size; False in reruns |
| ``boundary`` | a searched parameter lies on the edge of its range |
| ``pruned`` | the run was ended before its budget: nothing after that could matter |
| ``widened`` | the trial lies where the range was widened |
| ``refined`` | of older tables: the trial is part of a closer search around a winner |
| ``budget_steps`` | optimizer steps that a run at this batch size may take |
| ``trained_steps`` | optimizer steps that the run took |
| ``metric``, ``target`` | of the goal |
| ``seconds`` | that the run took in its process, with validations; None where it was not timed |

Further columns are kept as they are. An empty cell is None.
"""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_noise.report.errors import TableError
from lightning_noise.report.terms import INCOMPLETE, PHASES, REACHED, RERUN, STATUSES

Row = Mapping[str, Any]

FLAGS = {
    "true": True,
    "1": True,
    "false": False,
    "0": False,
    "": False,
}


def _size(text: str) -> int | float:
    value = _positive(text)
    if value.is_integer():
        return int(value)
    return value


def _whole(text: str) -> int:
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError("must be finite and > 0")
    return value


def _flag(text: str) -> bool:
    if text.lower() not in FLAGS:
        raise ValueError("must be True or False")
    return FLAGS[text.lower()]


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_or_none(text: str) -> Any:
        if not text:
            return None
        return read(text)

    return read_or_none


def _free(text: str) -> Any:
    """A column that this package does not know: a number where the text is one."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


READERS: dict[str, Callable[[str], Any]] = {
    "goal": str,
    "global_size": _size,
    "seed": _whole,
    "trial": _whole,
    "phase": _one_of(PHASES),
    "learning_rate": _optional(_positive),
    "status": _one_of(STATUSES),
    "steps": _optional(_positive),
    "examples": _optional(_positive),
    "best_value": _optional(float),
    "best": _flag,
    "boundary": _flag,
    "pruned": _flag,
    "widened": _flag,
    "refined": _flag,
    "budget_steps": _optional(_whole),
    "trained_steps": _optional(_whole),
    "metric": _optional(str),
    "target": _optional(float),
    "seconds": _optional(_positive),
}
OPTIONAL = (
    "pruned",
    "widened",
    "refined",
    "budget_steps",
    "trained_steps",
    "metric",
    "target",
    "seconds",
)
NEEDED = tuple(name for name in READERS if name not in OPTIONAL)


def read_table(
    path: str | Path,
    *,
    needs: Sequence[str] = NEEDED,
) -> list[dict[str, Any]]:
    """Reads a table, with the values of known columns in their types.

    Args:
        path: a CSV file with a header.
        needs: the columns that must be there; others may be absent.

    Raises:
        TableError: the file is not CSV in UTF-8, a needed column is absent, there is no row, or a
            value is not what its column holds; the message names its line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = _read_rows(path, csv.DictReader(file), needs)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path} is not a CSV file in UTF-8 ({error}).") from error
    if not rows:
        raise TableError(f"{path} has a header but no row.")
    return rows


def _read_rows(
    path: str | Path,
    reader: "csv.DictReader[str]",
    needs: Sequence[str],
) -> list[dict[str, Any]]:
    present = reader.fieldnames or ()
    missing = [name for name in needs if name not in present]
    if missing:
        noun = "columns"
        if len(missing) == 1:
            noun = "column"
        lacking = ", ".join(missing)
        has = ", ".join(present or ["none"])
        raise TableError(f"{path} lacks the {noun} {lacking}; it has {has}.")
    rows = []
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        rows.append(_read_row(place, row))
    return rows


def _read_row(
    place: str,
    row: Mapping[str | None, Any],
) -> dict[str, Any]:
    if None in row or None in row.values():
        raise TableError(f"{place}: it does not have as many cells as the header.")
    values = {}
    for given, text in row.items():
        name = str(given)
        values[name] = _read_cell(place, name, text)
    if values.get("status") == REACHED and values.get("steps") is None:
        raise TableError(f"{place}: status is {REACHED!r}, so steps must not be empty.")
    return values


def _read_cell(place: str, name: str, text: str) -> Any:
    read = READERS.get(name, _free)
    try:
        return read(text)
    except ValueError as error:
        invalid = f"invalid value {text!r} for column {name}"
        raise TableError(f"{place}: {invalid}: {error}.") from None


def as_runs(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Fills in what a table of mere batch sizes and steps leaves out.

    Every row is a run that counts, to one goal.

    >>> as_runs([{"global_size": 8, "steps": 900.0}])[0]["status"]
    'reached'
    """
    runs = []
    for row in rows:
        status = REACHED
        if row.get("steps") is None:
            status = INCOMPLETE
        filled_in = {
            "goal": "the goal",
            "seed": 0,
            "phase": RERUN,
            "status": status,
        }
        runs.append({**filled_in, **row})
    return runs


def write_table(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV, the known columns first.

    None becomes an empty cell, floats keep all their digits.

    Raises:
        ValueError: there is no row.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows must hold at least one run, got none.")
    known = [name for name in READERS if name in rows[0]]
    others = [name for name in columns(rows) if name not in known]
    header = [*known, *others]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def columns(rows: Iterable[Row]) -> list[str]:
    """The names of all columns, in the order in which rows first have them."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return list(names)


def goals(rows: Iterable[Row]) -> list[str]:
    """The names of the goals, in the order of their first rows."""
    names = [row["goal"] for row in rows]
    return list(dict.fromkeys(names))


def of_goal(
    rows: Iterable[Row],
    goal: str | None,
) -> list[Row]:
    """The rows of one goal; with None those of the only one.

    Raises:
        TableError: there is no such goal, or there are several and none is named.
    """
    rows = list(rows)
    names = goals(rows)
    if goal is None and len(names) == 1:
        return rows
    if goal not in names:
        choices = ", ".join(map(repr, names))
        raise TableError(f"goal must be one of {choices}, got {goal!r}.")
    return [row for row in rows if row["goal"] == goal]
