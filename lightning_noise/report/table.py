"""The table of a study: one row a trial and goal, as a list of dictionaries here and as CSV on disk.

| column | value |
|---|---|
| ``goal`` | name of the goal; a trial has one row for each |
| ``global_size`` | examples in one optimizer step |
| ``seed``, ``trial`` | whole numbers |
| ``phase`` | ``"search"``, or ``"rerun"`` of a winner with a fresh seed |
| ``learning_rate`` | the rate of the trial, None where it was not searched; other searched parameters are ``param_…`` |
| ``status`` | ``"reached"``, ``"incomplete"`` (the budget ended first) or ``"diverged"`` |
| ``steps``, ``examples`` | at the first crossing of the goal; None otherwise |
| ``best_value`` | best value of the goal's metric in the trial; None if there is none |
| ``best`` | the trial is the winner of its batch size; False in reruns |
| ``boundary`` | a searched parameter lies on the edge of its range |
| ``pruned`` | the run was ended before its budget, for nothing after that could matter |
| ``refined`` | the trial is one of the closer search around a winner |
| ``budget_steps`` | optimizer steps that a run at this batch size may take |

Further columns are kept as they are. An empty cell is None.
"""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

PHASES = ("search", "rerun")
STATUSES = ("reached", "incomplete", "diverged")


def _size(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError("must be finite and > 0")
    return int(value) if value.is_integer() else value


def _whole(text: str) -> int:
    return int(text)


def _rate(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError("must be finite and > 0")
    return value


def _flag(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False, "": False}[text.lower()]


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: read(text) if text else None


def _free(text: str) -> Any:
    """A column that this package does not know: a number where it reads as one."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


READERS: dict[str, Callable[[str], Any]] = {
    "goal": str,
    "global_size": _size,
    "seed": _whole,
    "trial": _whole,
    "phase": _one_of(PHASES),
    "learning_rate": _optional(_rate),
    "status": _one_of(STATUSES),
    "steps": _optional(_rate),
    "examples": _optional(_rate),
    "best_value": _optional(float),
    "best": _flag,
    "boundary": _flag,
    "pruned": _flag,
    "refined": _flag,
    "budget_steps": _optional(_whole),
}
NEEDED = tuple(name for name in READERS if name not in ("pruned", "refined", "budget_steps"))


def read_table(path: str | Path, *, needs: Sequence[str] = NEEDED) -> list[dict[str, Any]]:
    """Reads a table, with the values of known columns in their types.

    Args:
        path: a CSV file with a header.
        needs: the columns that must be there; others may be absent.

    Raises:
        ValueError: a needed column is absent, or a value is not what its column holds; names the line, or that there is no row.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in needs if name not in (reader.fieldnames or ())]
        if missing:
            has = ", ".join(reader.fieldnames or ["none"])
            raise ValueError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {has}.")
        rows = [_read_row(path, reader.line_num, row) for row in reader]
    if not rows:
        raise ValueError(f"{path} has a header but no row.")
    return rows


def _read_row(path: str | Path, line: int, row: Mapping[str | None, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ValueError(f"{path}, line {line}: it does not have as many cells as the header.")
    values = {str(name): _read_cell(f"{path}, line {line}", str(name), text) for name, text in row.items()}
    if values.get("status") == "reached" and values.get("steps") is None:
        raise ValueError(f"{path}, line {line}: status is 'reached', so steps must not be empty.")
    return values


def _read_cell(place: str, name: str, text: str) -> Any:
    try:
        return READERS.get(name, _free)(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{place}: {name} is {text!r}, which it cannot be ({error}).") from None


def as_runs(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Fills in what a table of mere batch sizes and steps leaves out: every row is a run to one goal that counts.

    >>> as_runs([{"global_size": 8, "steps": 900.0}])[0]["status"]
    'reached'
    """
    runs = []
    for row in rows:
        status = "incomplete" if row.get("steps") is None else "reached"
        runs.append({"goal": "the goal", "seed": 0, "phase": "rerun", "status": status, **row})
    return runs


def write_table(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV, the known columns first; None becomes an empty cell, floats keep all their digits.

    Raises:
        ValueError: there is no row.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows must hold at least one trial, got none.")
    known = [name for name in READERS if name in rows[0]]
    names = [*known, *dict.fromkeys(name for row in rows for name in row if name not in known)]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def goals(rows: Iterable[Row]) -> list[str]:
    """The names of the goals, in the order of their first rows."""
    return list(dict.fromkeys(row["goal"] for row in rows))


def of_goal(rows: Iterable[Row], goal: str | None) -> list[Row]:
    """The rows of one goal; None where the table has only one.

    Raises:
        ValueError: no such goal, or several and none named.
    """
    rows = list(rows)
    names = goals(rows)
    if goal is None and len(names) == 1:
        return rows
    if goal not in names:
        raise ValueError(f"goal must be one of {', '.join(map(repr, names))}, got {goal!r}.")
    return [row for row in rows if row["goal"] == goal]
