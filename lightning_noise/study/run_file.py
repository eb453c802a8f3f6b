"""Runs the study that a Python file holds."""

from collections.abc import Sequence
from pathlib import Path

from lightning_noise.study.loading import StudyFileError, load
from lightning_noise.study.result import StudyResult
from lightning_noise.study.study import BatchSizeStudy


def run_file(
    path: str | Path,
    *,
    quick: bool = False,
    storage: str | Path | None = None,
    accept_changes: bool = False,
) -> StudyResult:
    """Runs the study of a file that defines ``make_study(quick)``, a function that returns it, or ``study``.

    Either may also be a list of studies, whose goals have different names; they are run one after the other.

    Args:
        path: of a Python file. It is imported, also in the worker processes, so a study that it runs itself belongs under
            ``if __name__ == "__main__"``.
        quick: handed to ``make_study``; a few small runs, to see that all works.
        storage: instead of the study's own.
        accept_changes: as in :meth:`BatchSizeStudy.run`.

    Raises:
        FileNotFoundError: there is no such file.
        StudyFileError: the file defines no study, or ``quick`` is wanted of one without ``make_study``.
    """
    module = load(path)
    make = getattr(module, "make_study", None)
    if make is None and quick:
        raise StudyFileError(f"quick needs a function make_study(quick) in {path}, but there is only a fixed study.")
    study = make(quick) if make is not None else getattr(module, "study", None)
    studies = [one for one in (study if isinstance(study, list) else [study]) if isinstance(one, BatchSizeStudy)]
    if not studies or (isinstance(study, list) and len(studies) < len(study)):
        raise StudyFileError(f"{path} must define study = BatchSizeStudy(...) or make_study(quick), got {study!r}.")
    return run_all(studies, storage=storage, accept_changes=accept_changes)


def run_all(
    studies: Sequence[BatchSizeStudy],
    *,
    storage: str | Path | None = None,
    accept_changes: bool = False,
) -> StudyResult:
    """Runs studies one after the other, in ``storage`` if it is given, and joins their tables.

    ``accept_changes`` is that of :meth:`BatchSizeStudy.run`.

    Raises:
        ValueError: two of them have the same name, or goals of the same name.
    """
    for what, names in (
        ("names", [study.name for study in studies]),
        ("names of their goals", [goal.name for study in studies for goal in study.goals]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(f"studies that are run together must differ in the {what}, got {names}.")
    results = []
    for study in studies:
        study.storage = storage if storage is not None else study.storage
        results.append(study.run(accept_changes=accept_changes))
    told = dict.fromkeys(text for result in results for text in result.run_warnings)
    return StudyResult.from_table([row for result in results for row in result.table], told)
