"""Optuna's journal files: one line of JSON per entry."""

import json
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightning_noise.study.errors import StorageError


def read(path: Path, *, writable: bool) -> JournalStorage:
    """The storage in a journal file, which is created where there is none.

    A process that was killed while it wrote may leave half a line, which would spoil the next one:
    it is cut off where the file can be written, and ignored where it cannot.

    Raises:
        StorageError: the file cannot be read, is not a journal, or is damaged.
    """
    content = b""
    try:
        if path.exists():
            content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"storage {path} cannot be read ({error}).") from error
    end = content.rfind(b"\n") + 1  # of the last complete line
    _check(path, content[:end], content[end:])
    if writable and end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # lines of JSON that Optuna did not write can fail in any way
        reason = f"{type(error).__name__}: {error}"
        found = f"{path} is not a journal file of Optuna ({reason})"
        raise StorageError(f"Give another storage: {found}.") from error


def _check(path: Path, complete: bytes, rest: bytes) -> None:
    for number, line in enumerate(complete.splitlines(), start=1):
        if not _is_entry(line):
            raise _damaged(path, number)
    if rest and not complete and not rest.startswith(b"{"):  # a file of something else: not cut
        raise _damaged(path, 1)


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _damaged(path: Path, number: int) -> StorageError:
    if number == 1:
        return StorageError(
            f"Give another storage: {path} is not a journal file of Optuna, or is damaged from its "
            "first line on. Give a SQLite database as a URL, such as sqlite:///study.db."
        )
    return StorageError(
        f"storage {path} is damaged: line {number} is not an entry of a journal. Restore the file, "
        f"or keep the runs before that line (head -n {number - 1} {path} > repaired.journal) and "
        "continue with storage='repaired.journal'."
    )
