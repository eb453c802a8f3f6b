"""Runs the study that a Python file holds, or several studies one after the other."""

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from lightning_noise.report.table import Row
from lightning_noise.study.checks import all_are, has_duplicates
from lightning_noise.study.loading import StudyFileError, load
from lightning_noise.study.result import StudyResult
from lightning_noise.study.study import BatchSizeStudy


def run_file(
    path: str | Path,
    *,
    quick: bool = False,
    storage: str | Path | None = None,
    accept_changes: bool = False,
    executor: Executor | None = None,
) -> StudyResult:
    """Runs the study of a file that defines ``make_study(quick)`` or ``study``.

    Either may also be (or return) a list of studies, whose goals have different names; they are
    run one after the other.

    Args:
        path: of a Python file. It is imported, also in the worker processes, so a study that it
            runs itself belongs under ``if __name__ == "__main__"``.
        quick: passed to ``make_study``; a few small runs, to check that everything works.
        storage: instead of the study's own.
        accept_changes, executor: as in :meth:`BatchSizeStudy.run`.

    Raises:
        FileNotFoundError: there is no such file.
        StudyFileError: the file defines no study, or ``quick`` is asked of one without
            ``make_study``.
    """
    studies = studies_in(path, quick=quick)
    return run_all(
        studies,
        storage=storage,
        accept_changes=accept_changes,
        executor=executor,
    )


def studies_in(path: str | Path, *, quick: bool = False) -> list[BatchSizeStudy]:
    """The studies that a file defines; it is imported. See :func:`run_file`."""
    module = load(path)
    make = getattr(module, "make_study", None)
    if make is not None:
        study = make(quick)
    elif quick:
        needs = f"quick needs a function make_study(quick) in {path}"
        raise StudyFileError(f"{needs}, but there is only a fixed study.")
    else:
        study = getattr(module, "study", None)
    studies = [study]
    if isinstance(study, list):
        studies = study
    if not studies or not all_are(studies, BatchSizeStudy):
        rule = "must define study = BatchSizeStudy(...) or make_study(quick)"
        raise StudyFileError(f"{path} {rule}, got {study!r}.")
    return studies


def storages_in(path: str | Path) -> list[str]:
    """The storages of the studies in a file, each once.

    Raises:
        FileNotFoundError: there is no such file.
        StudyFileError: the file defines no study, or one whose storage is an object of Optuna's.
    """
    found: dict[str, None] = {}
    for study in studies_in(path):
        storage = study.storage or f"{study.name}.journal"
        if not isinstance(storage, str | Path):
            fix = "Give the URL of its storage instead"
            raise StudyFileError(f"{fix}: study {study.name!r} has {storage!r}.")
        found[str(storage)] = None
    return list(found)


def run_all(
    studies: Sequence[BatchSizeStudy],
    *,
    storage: str | Path | None = None,
    accept_changes: bool = False,
    executor: Executor | None = None,
) -> StudyResult:
    """Runs studies one after the other, in ``storage`` if it is given, and joins their tables.

    ``accept_changes`` and ``executor`` are those of :meth:`BatchSizeStudy.run`.

    Raises:
        ValueError: two of them have the same name, or goals of the same name.
    """
    goal_names = []
    for study in studies:
        goal_names += [goal.name for goal in study.goals]
    _check_different("names", [study.name for study in studies])
    _check_different("names of their goals", goal_names)
    table: list[Row] = []
    warnings: dict[str, None] = {}
    for study in studies:
        result = study.run(
            storage=storage,
            accept_changes=accept_changes,
            executor=executor,
        )
        table += result.timed_table()
        warnings.update(dict.fromkeys(result.run_warnings))
    return StudyResult.from_table(table, warnings)


def _check_different(what: str, names: Sequence[str]) -> None:
    if has_duplicates(names):
        rule = f"studies that are run together must differ in the {what}"
        raise ValueError(f"{rule}, got {names}.")
