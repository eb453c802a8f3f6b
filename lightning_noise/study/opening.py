"""Opens a storage for one process at a time, or for reading where it cannot be written.

A journal file and a SQLite database have a lock file next to them, which the system releases when
the process dies, however it dies. For every other storage that several processes can reach, see
:mod:`lightning_noise.study.owner`.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, InMemoryStorage, get_storage

from lightning_noise.study import journal
from lightning_noise.study.errors import StorageError
from lightning_noise.study.owner import Owner, owned

_SQLITE_FILE = re.compile(r"sqlite(?:\+\w+)?:///(?!:memory:|file:)([^?]+)")
_SQLITE_MEMORY = re.compile(r"sqlite(?:\+\w+)?://(/:memory:)?$")


class Opened:
    """A storage in use.

    Args:
        storage: of Optuna.
        obstacle: why nothing can be written; empty where it can.
        owner: of the study in it; None where a lock file, or nothing, keeps others away.
    """

    def __init__(
        self,
        storage: BaseStorage,
        *,
        obstacle: str = "",
        owner: Owner | None = None,
    ) -> None:
        self.storage = storage
        self._obstacle = obstacle
        self._owner = owner

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""
        return bool(self._obstacle)

    def check_writing(self) -> None:
        """Call before anything is written.

        Raises:
            StorageError: the storage can only be read, or another process has taken over.
        """
        if self._obstacle:
            raise StorageError(
                f"{self._obstacle}. A finished study can be read there, but this one has runs left "
                "to do: make the storage writable, or copy it and run the study on the copy."
            )
        if self._owner is not None:
            self._owner.check()


@contextmanager
def opened(
    storage: str | Path | BaseStorage | None,
    name: str,
) -> Iterator[Opened]:
    """The storage of study ``name``, which no other process can run in the meantime.

    Raises:
        StorageError: it cannot be used or is damaged, or another process is running the study.
    """
    with ExitStack() as stack:
        if isinstance(storage, BaseStorage):
            yield _shared(stack, storage, name)
        elif isinstance(storage, str) and "://" in storage:
            yield _by_url(stack, storage, name)
        else:
            path = _journal_path(storage, name)
            obstacle = stack.enter_context(_locked(path))
            found = journal.read(path, writable=not obstacle)
            yield Opened(found, obstacle=obstacle)


def _journal_path(storage: str | Path | None, name: str) -> Path:
    if storage is not None and not isinstance(storage, str | Path):
        kinds = "a path, a URL for Optuna or an Optuna storage"
        raise StorageError(f"storage must be {kinds}, got {storage!r}.")
    if storage is not None and Path(storage).is_dir():
        raise StorageError(
            f"storage must be a journal file, but {storage} is a folder. Name a file in it, such "
            f"as {Path(storage) / 'study.journal'}."
        )
    return Path(storage or f"{name}.journal")


def _by_url(stack: ExitStack, url: str, name: str) -> Opened:
    file = _SQLITE_FILE.match(url)
    if file is not None:
        obstacle = stack.enter_context(_locked(Path(file[1])))
        return Opened(_connected(url), obstacle=obstacle)
    if _SQLITE_MEMORY.match(url):
        return Opened(_connected(url))
    return _shared(stack, _connected(url), name)


def _shared(stack: ExitStack, storage: BaseStorage, name: str) -> Opened:
    if isinstance(storage, InMemoryStorage):  # no other process can see it
        return Opened(storage)
    try:
        return Opened(storage, owner=stack.enter_context(owned(storage, name)))
    except StorageError:
        raise
    except Exception as error:  # each kind of storage has its own errors
        obstacle = f"the storage cannot be written ({_in_short(error)})"
        return Opened(storage, obstacle=obstacle)


def _connected(url: str) -> BaseStorage:
    """Connects twice: two processes that set up the tables of a new database can collide."""
    try:
        return get_storage(url)
    except ImportError as error:
        raise StorageError(f"Install the driver of storage {_shown(url)}: {error}") from error
    except Exception:  # each driver has its own errors
        time.sleep(1.0)
    try:
        return get_storage(url)
    except Exception as error:
        check = f"Check the URL of storage {_shown(url)} and that it can be reached"
        raise StorageError(f"{check}: {_in_short(error)}") from error


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _shown(url: str) -> str:
    return re.sub(r"://([^:@/]*):[^@/]*@", r"://\1:***@", url)


@contextmanager
def _locked(path: Path) -> Iterator[str]:
    """Locks a file of finished runs; yields what prevents writing to it, "" where nothing does.

    Raises:
        StorageError: another process has the lock; or there is no file and none can be created.
    """
    lock = Path(f"{path}.running")
    obstacle = _obstacle(path, lock)
    if obstacle:
        if not path.exists():
            raise StorageError(f"{obstacle}. Give storage= a path that can be written.")
        yield obstacle
        return
    try:
        held = FileLock(lock, timeout=0)
        held.acquire()
    except Timeout as error:
        in_use = f"storage {path} is in use by another run of a study"
        raise StorageError(f"{in_use}. Wait for it, or use another file.") from error
    except OSError as error:  # a file system without locks
        yield f"storage {path} cannot be locked ({error})"
        return
    try:
        yield ""
    finally:
        held.release()


def _obstacle(path: Path, lock: Path) -> str:
    """What prevents writing, according to the system.

    To ``filelock`` an old lock file that cannot be opened looks like one that is held.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [lock]
        if path.exists():
            files.append(path)
        for file in files:
            with file.open("ab"):
                pass
    except OSError as error:
        return f"storage {path} cannot be written ({error})"
    return ""
