"""Finds the logs of runs below folders."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from lightning_noise.report.errors import ReportError
from lightning_noise.report.page.course import Course, courses_of
from lightning_noise.report.page.event_files import has_event_files, read_event_files
from lightning_noise.report.page.log import RunLog
from lightning_noise.report.page.metrics_csv import NAME, has_metrics_csv, read_metrics_csv
from lightning_noise.say.log_keys import PREFIX
from lightning_noise.say.run_facts import FILE, RunFacts, from_text

Kind = tuple[Callable[[Path], bool], Callable[[Path], list[RunLog]]]
# Event files first: they hold times and the verdict too.
KINDS: tuple[Kind, ...] = (
    (has_event_files, read_event_files),
    (has_metrics_csv, read_metrics_csv),
)


def find_courses(folders: Sequence[Path]) -> list[Course]:
    """What was logged of every run in folders, or below them where a folder itself holds no log.

    A run is read once, also where several folders lead to it.

    Raises:
        ReportError: a folder does not exist, or there is no log of a noise scale in it or below it.
    """
    found: dict[Path, list[Course]] = {}
    for folder in folders:
        _check_folder(folder)
        logs = dict(_logs_below(folder))
        if not logs:
            raise ReportError(_nothing_found(folder))
        for path, courses in logs.items():
            found.setdefault(path.resolve(), courses)
    return list(chain.from_iterable(found.values()))


def _check_folder(folder: Path) -> None:
    rule = "RUN_DIR must be a folder that a logger has written"
    if folder.is_file():
        raise ReportError(f"{rule}, got the file {folder}: give {folder.parent} instead.")
    if not folder.is_dir():
        raise ReportError(f"{rule}, but {folder} does not exist: check the path.")


def _logs_below(folder: Path) -> Iterator[tuple[Path, list[Course]]]:
    own = _courses_in(folder)
    if own:
        yield folder, own
        return
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            courses = _courses_in(path)
            if courses:
                yield path, courses


def _courses_in(folder: Path) -> list[Course]:
    for is_there, read in KINDS:
        if is_there(folder):
            facts = _facts_in(folder)
            courses = []
            for log in read(folder):
                courses += courses_of(log._replace(facts=facts))
            if courses:
                return courses
    return []


def _facts_in(folder: Path) -> dict[str, RunFacts]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        return from_text(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problem = f"{path} is not as GradientNoiseScale writes it"
        fix = "delete it, and the page names neither unit nor optimizer"
        raise ReportError(f"{problem}: {fix}.") from error


def _nothing_found(folder: Path) -> str:
    rule = f"RUN_DIR must hold event files of TensorBoard or {NAME}, with scalars {PREFIX}…"
    paths = [folder, *folder.rglob("*")]
    if any(has_event_files(path) or has_metrics_csv(path) for path in paths if path.is_dir()):
        fix = "train with the callback GradientNoiseScale, at least until the first log step"
        return f"{rule}, but the logs in {folder} have no such scalar: {fix}."
    fix = "give the folder of a run, such as lightning_logs/version_0"
    return f"{rule}, but {folder} has neither: {fix}."
