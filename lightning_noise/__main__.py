"""The command line of ``lightning-noise``: ``study``, ``status``, ``branch``, ``fit``, ``plot`` and
``report``.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_noise
from lightning_noise.core.errors import how_to_install
from lightning_noise.report.curves import steps_curve
from lightning_noise.report.draw import draw_all
from lightning_noise.report.errors import NoMatplotlibError, ReportError, TableError
from lightning_noise.report.fit_text import describe
from lightning_noise.report.table import as_runs, goals, read_table


class UsageError(Exception):
    """An error that the user of the command can fix."""


# Every other error is a bug, in the study or in this package, and keeps its traceback.
EXPECTED = (UsageError, TableError, ReportError, NoMatplotlibError)


def _study(args: argparse.Namespace) -> int:
    """Runs a study file, stores its table and reports the result."""
    try:  # these need Optuna, and the other commands do not
        from lightning_noise.study import StorageError, StudyFileError, run_file
    except ImportError as error:
        raise _needs_more(error) from error
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
    _print(f"{result.summary()}\ntable: {table}")
    return 0


def _status(args: argparse.Namespace) -> int:
    """Reports what is done of the studies in a storage, or of those in a file."""
    try:
        from lightning_noise.study import StorageError, StudyFileError
        from lightning_noise.study.status import status
    except ImportError as error:
        raise _needs_more(error) from error
    storages = [args.storage]
    try:
        if args.storage.endswith(".py"):
            from lightning_noise.study.running import storages_in

            storages = storages_in(args.storage)
        for storage in storages:
            _print(status(storage))
    except (StudyFileError, StorageError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return 0


def _branch(args: argparse.Namespace) -> int:
    """Runs the branches of a file from a checkpoint, and reports what they found."""
    try:
        from lightning_noise.study import StudyFileError, run_branch_file
    except ImportError as error:
        raise _needs_more(error) from error
    for file in (args.file, args.checkpoint):
        if not file.is_file():
            raise UsageError(f"there is no file {file}")
    try:
        found = run_branch_file(args.file, args.checkpoint)
    except StudyFileError as error:
        raise UsageError(str(error)) from error
    if args.tolerance is not None:
        found = found.with_tolerance(args.tolerance)
    table = args.csv or Path(f"{args.file.stem}_branches.csv")
    found.to_csv(table)
    _print(f"{found.summary()}\ntable: {table}")
    if args.figure is not None:
        found.figure(args.figure)
        _print(f"figure: {args.figure}")
    return 0


def _needs_more(error: ImportError) -> UsageError:
    cause = error.__cause__ or error
    return UsageError(f"a study needs more packages ({cause}); {how_to_install('study')}")


def _fit(args: argparse.Namespace) -> int:
    """Reports the critical batch size of every goal in a table. Returns 1 if one has no fit."""
    rows = _rows(args.table)
    names = _selected(rows, args.goal)
    curves = [steps_curve(rows, goal, confidence=args.confidence) for goal in names]
    status = 0
    for curve in curves:
        _print(describe(curve))
        if curve.fit is None:
            status = 1
    return status


def _plot(args: argparse.Namespace) -> int:
    """Draws every figure that a table has data for."""
    rows = _rows(args.table)
    names = _selected(rows, args.goal)
    options = {"confidence": args.confidence, "kind": args.format}
    try:
        for path in draw_all(rows, args.out, names, **options):
            _print(str(path))
    except OSError as error:
        raise UsageError(str(error)) from error
    return 0


def _report(args: argparse.Namespace) -> int:
    """Writes the page on runs."""
    # TensorBoard's reader is loaded with it, and the other commands do not need it
    from lightning_noise.report.page.page import write_report

    try:
        write_report(args.folders, args.out, args.price)
    except OSError as error:
        raise UsageError(str(error)) from error
    _print(str(args.out))
    return 0


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        return as_runs(read_table(table, needs=("global_size", "steps")))
    except OSError as error:
        raise UsageError(str(error)) from error


def _selected(rows: Sequence[dict[str, Any]], goal: str | None) -> list[str]:
    names = goals(rows)
    if goal is None:
        return names
    if goal not in names:
        listed = ", ".join(map(repr, names))
        raise UsageError(f"--goal must be one of {listed}, got {goal!r}")
    return [goal]


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1), got {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text}")
    return value


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        fix = "give what an hour of the machine costs, such as 2.5"
        raise argparse.ArgumentTypeError(f"must be a finite number >= 0, got {text!r}: {fix}")
    return value


def _parser() -> argparse.ArgumentParser:
    question = "How large a batch size pays off?"
    parser = argparse.ArgumentParser(prog="lightning-noise", description=question)
    version = f"%(prog)s {lightning_noise.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_study(commands.add_parser("study", help="run a study and store its table"))
    _add_status(commands.add_parser("status", help="what is done of a study, while it runs"))
    branches = "the critical batch size at a checkpoint, by branches at larger batch sizes"
    _add_branch(commands.add_parser("branch", help=branches))
    fit = commands.add_parser("fit", help="the critical batch size from a table of steps")
    plot = commands.add_parser("plot", help="the figures of a table")
    _add_table(fit)
    _add_table(plot)
    fit.set_defaults(run=_fit)
    folder = "folder for the figures (default: the current one)"
    plot.add_argument("--out", type=Path, default=Path(), help=folder)
    kinds = ("png", "pdf", "svg")
    plot.add_argument("--format", choices=kinds, default="png", help="default: png")
    plot.set_defaults(run=_plot)
    _add_report(commands.add_parser("report", help="an HTML page about runs from their logs"))
    return parser


def _add_study(study: argparse.ArgumentParser) -> None:
    file = "Python file that defines make_study(quick) or study = BatchSizeStudy(...)"
    quick = "a few small runs, to check that everything works"
    storage = "Optuna storage URL or journal file, instead of the study's own"
    accept = "keep stored runs although the code or options they were made with have changed"
    table = "where to store the table (default: the file's name with .csv, in the current folder)"
    study.add_argument("file", type=Path, help=file)
    study.add_argument("--quick", action="store_true", help=quick)
    study.add_argument("--storage", help=storage)
    study.add_argument("--accept-changes", action="store_true", help=accept)
    study.add_argument("--csv", type=Path, help=table)
    study.set_defaults(run=_study)


def _add_status(status: argparse.ArgumentParser) -> None:
    storage = "Optuna storage URL or journal file, or a study file whose storages are shown"
    status.add_argument("storage", help=storage)
    status.set_defaults(run=_status)


def _add_branch(branch: argparse.ArgumentParser) -> None:
    file = "Python file that defines branch(checkpoint), which returns branched_check(...)"
    checkpoint = "of Lightning, with the state of the optimizer"
    tolerance = "how much worse a branch may end, instead of the check's own"
    table = "where to store the branches (default: the file's name with _branches.csv)"
    branch.add_argument("file", type=Path, help=file)
    branch.add_argument("--checkpoint", metavar="CKPT", type=Path, required=True, help=checkpoint)
    branch.add_argument("--tolerance", type=_positive, help=tolerance)
    branch.add_argument("--csv", type=Path, help=table)
    branch.add_argument("--figure", type=Path, help="where to draw it (needs the extra plots)")
    branch.set_defaults(run=_branch)


def _add_report(report: argparse.ArgumentParser) -> None:
    folders = "folder with the logs of a run (TensorBoard or CSVLogger), or one above such folders"
    out = "the page (default: report.html)"
    price = "of the machine per hour, in any currency: adds costs"
    report.add_argument("folders", metavar="RUN_DIR", nargs="+", type=Path, help=folders)
    report.add_argument("-o", "--out", type=Path, default=Path("report.html"), help=out)
    report.add_argument("--price", metavar="PER_HOUR", type=_price, help=price)
    report.set_defaults(run=_report)


def _add_table(command: argparse.ArgumentParser) -> None:
    table = "CSV with columns global_size and steps, or the table of a study"
    confidence = "of the intervals (default: 0.95)"
    command.add_argument("table", type=Path, help=table)
    command.add_argument("--goal", help="one goal of the table (default: all)")
    command.add_argument("--confidence", type=_share, default=0.95, help=confidence)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    The status is 0 for success, 1 if a fit is refused, and 2 if the input is wrong.
    """
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except EXPECTED as error:
        sys.stderr.write(f"lightning-noise: {error}\n")
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
