"""Rows in a file: one NamedTuple a line, written so that an interrupted run leaves a whole file."""

import csv
import math
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks.harness.spec import Benchmark, Row


def cell(value: Any, digits: int) -> str:
    """A value as it is written; empty for ``None``."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(value)


def parse(text: str, kind: Any) -> Any:
    """A cell as a value of the type of its column."""
    if isinstance(kind, types.UnionType):  # float | None
        if text == "":
            return None
        kind = kind.__args__[0]
    if kind is bool:
        return text == "True"
    if kind is float and text == "":
        return math.nan
    return kind(text)


class File:
    """The file of a benchmark.

    Lines that were there keep their text to the last character. A column that an older file does
    not have is filled with the default of its field.

    Raises:
        ValueError: the file has another benchmark's columns.
    """

    def __init__(self, benchmark: Benchmark, path: Path) -> None:
        self.path, self._benchmark = path, benchmark
        self._lines: list[tuple[Row, list[str]]] = []
        if path.exists():
            self._load()

    def _load(self) -> None:
        kind = self._benchmark.row
        hints = get_type_hints(kind)
        with self.path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            missing = [name for name in kind._fields if name not in head]
            if set(head) - set(hints) or any(n not in kind._field_defaults for n in missing):
                raise ValueError(
                    f"{self.path} has the columns {', '.join(head)}, but {self._benchmark.name} "
                    f"writes {', '.join(kind._fields)}. Choose another --csv."
                )
            for line in lines:
                texts = dict(zip(head, line, strict=True))
                row = kind(**{name: parse(text, hints[name]) for name, text in texts.items()})
                new = {n: cell(getattr(row, n), self._benchmark.digits) for n in missing}
                self._lines.append((row, [{**texts, **new}[name] for name in kind._fields]))

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for row, _ in self._lines]

    @property
    def done(self) -> dict[tuple[Any, ...], list[Row]]:
        """All rows by what they measure."""
        found: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            found.setdefault(self._benchmark.key_of(row), []).append(row)
        return found

    def add(self, group: Sequence[Row]) -> None:
        """Writes a group of rows in place of those that measure the same."""
        key_of, digits = self._benchmark.key_of, self._benchmark.digits
        replaced = {key_of(row) for row in group}
        kept = [line for line in self._lines if key_of(line[0]) not in replaced]
        new = [(row, [cell(value, digits) for value in row]) for row in group]
        self._lines = [*kept, *new]
        order = self._benchmark.order
        if order is not None:
            self._lines.sort(key=lambda line: order(line[0]))
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._benchmark.row._fields)
            writer.writerows(texts for _, texts in self._lines)
        part.replace(self.path)


def committed(benchmark: Benchmark) -> list[Row]:
    """The rows in the repository."""
    return File(benchmark, benchmark.path).rows


def rounded(group: Iterable[Row], digits: int) -> Iterator[Row]:
    """Rows as they will be read again, so that a table is the same before and after."""
    for row in group:
        hints = get_type_hints(type(row))
        texts = {name: cell(value, digits) for name, value in row._asdict().items()}
        yield type(row)(**{name: parse(text, hints[name]) for name, text in texts.items()})
