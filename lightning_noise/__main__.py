"""The command line: ``lightning-noise study``, ``fit`` and ``plot``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_noise
from lightning_noise.report.curves import steps_curve
from lightning_noise.report.draw import draw_all
from lightning_noise.report.fit_text import describe
from lightning_noise.report.table import as_runs, goals, read_table


class UsageError(Exception):
    """What the user of the command can mend; an error inside a study keeps its traceback."""


def _study(args: argparse.Namespace) -> int:
    """Runs a study file, stores its table and says what it found."""
    try:
        from lightning_noise.study import StorageError, StudyFileError, run_file  # needs Optuna, the other commands do not
    except ImportError as error:
        raise UsageError(
            f"a study needs more packages ({error.__cause__ or error}): pip install 'lightning-noise[study]'"
        ) from error
    if not args.file.is_file():
        raise UsageError(f"there is no study file {args.file}")
    try:
        result = run_file(
            str(args.file),
            quick=args.quick,
            storage=args.storage,
            accept_changes=args.accept_changes,
        )
    except (StudyFileError, StorageError) as error:
        raise UsageError(str(error)) from error
    table = args.csv or Path(args.file.stem).with_suffix(".csv")
    result.to_csv(table)
    _say(f"{result.summary()}\ntable: {table}")
    return 0


def _fit(args: argparse.Namespace) -> int:
    """Says the critical batch size of every goal in a table; 1 where there is one that cannot be said."""
    rows = as_runs(read_table(args.table, needs=("global_size", "steps")))
    curves = [steps_curve(rows, goal, confidence=args.confidence) for goal in _wanted(rows, args.goal)]
    for curve in curves:
        _say(describe(curve))
    return int(any(curve.fit is None for curve in curves))


def _plot(args: argparse.Namespace) -> int:
    """Draws every figure that a table has numbers for."""
    rows = as_runs(read_table(args.table, needs=("global_size", "steps")))
    for path in draw_all(rows, args.out, _wanted(rows, args.goal), confidence=args.confidence, kind=args.format):
        _say(str(path))
    return 0


def _wanted(rows: Sequence[dict[str, Any]], goal: str | None) -> list[str]:
    names = goals(rows)
    if goal is not None and goal not in names:
        raise ValueError(f"--goal must be one of {', '.join(map(repr, names))}, got {goal!r}")
    return names if goal is None else [goal]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1), got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning-noise", description="How large a batch is worth it?")
    version = f"%(prog)s {lightning_noise.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")

    study = commands.add_parser("study", help="run a study of the batch size and store its table")
    study.add_argument("file", type=Path, help="Python file that defines make_study(quick) or study = BatchSizeStudy(...)")
    study.add_argument("--quick", action="store_true", help="a few small runs, to see that all works")
    study.add_argument("--storage", help="Optuna storage URL or journal file, instead of the study's own")
    study.add_argument(
        "--accept-changes",
        action="store_true",
        help="keep stored runs although the code or options they were made with have changed",
    )
    study.add_argument("--csv", type=Path, help="where to store the table (default: the file's name with .csv, in this folder)")
    study.set_defaults(run=_study, expected=UsageError)

    fit = commands.add_parser("fit", help="the critical batch size from a table of steps")
    plot = commands.add_parser("plot", help="the figures of a table")
    for command in (fit, plot):
        command.add_argument("table", type=Path, help="CSV with columns global_size and steps; or a study's whole table")
        command.add_argument("--goal", help="one goal of the table (default: all)")
        command.add_argument("--confidence", type=_share, default=0.95, help="of the intervals (default: 0.95)")
    fit.set_defaults(run=_fit, expected=(ValueError, OSError))
    plot.add_argument("--out", type=Path, default=Path(), help="folder for the figures (default: this one)")
    plot.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="default: png")
    plot.set_defaults(run=_plot, expected=(ValueError, OSError, ImportError))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 where a fit is refused, 2 where the input is wrong."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except args.expected as error:
        sys.stderr.write(f"lightning-noise: {error}\n")
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
