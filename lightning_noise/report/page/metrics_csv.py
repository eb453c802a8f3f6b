"""Reads the ``metrics.csv`` of Lightning's ``CSVLogger``."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from lightning_noise.report.errors import ReportError
from lightning_noise.report.page.log import Point, RunLog, logs_of
from lightning_noise.say.log_keys import without_prefix

NAME = "metrics.csv"


def has_metrics_csv(folder: Path) -> bool:
    """Whether a folder holds the file itself."""
    return (folder / NAME).is_file()


def read_metrics_csv(folder: Path) -> list[RunLog]:
    """The scalars of the noise scale in the file. It holds neither times nor texts.

    Raises:
        ReportError: the file is not CSV in UTF-8, has no column ``step``, or a value in it is not a
            number; the message names its line.
    """
    path = folder / NAME
    scalars: dict[str, list[Point]] = {}
    try:
        for name, point in _points(path):
            scalars.setdefault(name, []).append(point)
    except (UnicodeDecodeError, csv.Error) as error:
        problem = f"{path} is not a CSV file in UTF-8 ({error})"
        raise ReportError(f"{problem}: give the folder of another log.") from error
    return logs_of(str(folder), scalars, {}, timed=False)


def _points(path: Path) -> Iterator[tuple[str, Point]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # the run is writing it
    reader = csv.DictReader(lines)
    names = [name for name in reader.fieldnames or () if without_prefix(name)]
    if names and "step" not in (reader.fieldnames or ()):
        fix = "log the run anew with CSVLogger, which writes it"
        raise ReportError(f"{path} lacks the column step: {fix}.")
    for row in reader:
        for name in names:
            if not row[name]:
                continue
            place = f"{path}, line {reader.line_num}"
            step = _number(place, "step", row["step"])
            value = _number(place, name, row[name])
            if math.isfinite(value):
                yield name, Point(int(step), value, reader.line_num)


def _number(place: str, name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        rule = f"column {name} must hold a number, got {text!r}"
        raise ReportError(f"{place}: {rule}: mend the cell or delete the line.") from None
