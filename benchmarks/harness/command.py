"""``python -m benchmarks run NAME``: options of the command line, rows to the file, tables out."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks.harness.machine import MACHINES, this_machine, threads
from benchmarks.harness.rows import File, rounded
from benchmarks.harness.spec import Benchmark, Row, Timed


def parser_of(benchmark: Benchmark) -> argparse.ArgumentParser:
    """The arguments of a benchmark: those that all have, and its own options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks run {benchmark.name}",
        description=f"{benchmark.question}\n\n{benchmark.about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="a run of seconds that shows that all of it works"
    )
    parser.add_argument(
        "--csv",
        type=Path,
        help="file of the rows; a run goes on where the file ends. Default: "
        f"{benchmark.path.name} in benchmarks/results, with --quick none",
    )
    parser.add_argument("--again", action="store_true", help="measures what the file has, too")
    parser.add_argument("--figure", type=Path, help="file to draw a picture to")
    kinds = get_type_hints(type(benchmark.options))
    for field in dataclasses.fields(benchmark.options):
        default = getattr(benchmark.options, field.name)
        about = field.metadata["about"]
        several = isinstance(default, tuple)
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kinds[field.name].__args__[0] if several else type(default),
            nargs="+" if several else None,
            choices=field.metadata["choices"] or None,
            metavar="NAME" if field.metadata["choices"] else None,
            help=f"{about}; default: {default}",
        )
    return parser


def options_of(benchmark: Benchmark, given: argparse.Namespace) -> Any:
    """The options of a full or quick run, with those that were given in their place.

    Raises:
        ValueError: other options than those of the committed rows, and their file.
    """
    base = benchmark.quick if given.quick else benchmark.options
    changed, fixed = {}, []
    for field in dataclasses.fields(base):
        value = getattr(given, field.name)
        if value is None:
            continue
        value = tuple(value) if isinstance(value, list) else value
        changed[field.name] = value
        if value != getattr(base, field.name) and not field.metadata["extends"]:
            fixed.append(field.name)
    if fixed and not given.quick and given.csv is None:
        raise ValueError(
            f"rows with another --{fixed[0].replace('_', '-')} do not belong into "
            f"{benchmark.path}. Name another file with --csv."
        )
    return dataclasses.replace(base, **changed)


def run(
    benchmark: Benchmark,
    options: Any,
    path: Path | None = None,
    *,
    again: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measures what ``path`` does not have yet, writes it, and returns all rows.

    Raises:
        ValueError: the rows of the file are times of another machine, or this one does not have
            what is needed.
    """
    lacking = benchmark.missing()
    if lacking:
        raise ValueError(f"{benchmark.name} cannot run here: {lacking}")
    file = None if path is None else File(benchmark, path)
    done = {} if file is None or again else file.done
    found: list[Row] = []
    with threads(options.threads if isinstance(options, Timed) else 1):
        if file is not None and isinstance(options, Timed):
            check_machine(file, is_new=not done)
        for group in benchmark.measure(options, done):
            new = list(rounded(group, benchmark.digits))
            if file is not None:
                if isinstance(options, Timed) and not found:
                    machines_beside(file).add([this_machine(file.path.stem)])
                file.add(new)
            found += new
            for row in new if tell is not None else ():
                tell("\t".join(map(str, row)))
    return found if file is None else file.rows


def machines_beside(file: File) -> File:
    """Where the facts of the machine are kept."""
    return File(MACHINES, file.path.with_name("machines.csv"))


def check_machine(file: File, *, is_new: bool) -> None:
    """Before anything is measured.

    Raises:
        ValueError: there are rows of another machine, with which none can be compared.
    """
    here = this_machine(file.path.stem)
    before = machines_beside(file).done.get((here.benchmark,), [])
    if not is_new and before != [here]:
        known = ", ".join(map(str, before)) or "unknown"
        raise ValueError(
            f"{file.path} has rows of another machine ({known}), and this one is {here}. "
            "Use --again to measure all of it here, or another --csv."
        )


def main(benchmark: Benchmark, argv: Sequence[str]) -> list[Row]:
    """Runs a benchmark as the command line says, prints its tables, and returns its rows."""
    parser = parser_of(benchmark)
    given = parser.parse_args(argv)
    path = given.csv
    if path is None and not given.quick:
        path = benchmark.path
    try:
        options = options_of(benchmark, given)
        rows = run(
            benchmark,
            options,
            path,
            again=given.again,
            tell=lambda line: print(line, file=sys.stderr),
        )
    except ValueError as error:
        parser.error(str(error))
    for name, table in benchmark.tables.items():
        print(f"{name}:\n\n{table(rows)}\n")
    if given.figure is not None:
        if benchmark.draw is None:
            parser.error(f"{benchmark.name} has no figure. Leave --figure out.")
        benchmark.draw(rows, given.figure)
    return rows
