"""Opens a storage: a database for any number of processes, every other one for one at a time.

See :mod:`lightning_noise.study.shared_database` for databases with advisory locks. A journal file
and a SQLite database have a lock file next to them, which the system releases when the process
dies, however it dies. For every other storage that several processes can reach, see
:mod:`lightning_noise.study.owner`. A storage that cannot be written is opened for reading.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, get_storage

from lightning_noise.study import journal
from lightning_noise.study.advisory import DIALECTS, backend
from lightning_noise.study.claims import Claims
from lightning_noise.study.errors import StorageError
from lightning_noise.study.owner import Owner, owned

Connected = TypeVar("Connected")

_SQLITE_FILE = re.compile(r"sqlite(?:\+\w+)?:///(?!:memory:|file:)([^?]+)")
_SQLITE_MEMORY = re.compile(r"sqlite(?:\+\w+)?://(/:memory:)?$")


ALONE = Claims()


class Opened:
    """A storage in use.

    Args:
        storage: of Optuna.
        obstacle: why nothing can be written; empty where it can.
        owner: of the study in it; None where a lock file, or nothing, keeps others away.
        claims: who runs what, where several processes share it.
    """

    def __init__(
        self,
        storage: BaseStorage,
        *,
        obstacle: str = "",
        owner: Owner | None = None,
        claims: Claims = ALONE,
    ) -> None:
        self.storage = storage
        self.claims = claims
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
    """The storage of study ``name``.

    In a database with advisory locks the study is shared with other processes. In every other
    storage no other process can run it in the meantime.

    Raises:
        StorageError: it cannot be used or is damaged, or another process is running the study.
    """
    with ExitStack() as stack:
        if isinstance(storage, BaseStorage):
            yield _by_object(stack, storage, name)
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


def _by_object(stack: ExitStack, storage: BaseStorage, name: str) -> Opened:
    # Optuna's get_storage() wraps a database in a cache, which has no public name for it
    inner = getattr(storage, "_backend", storage)
    if isinstance(inner, RDBStorage) and backend(inner.url) in DIALECTS:
        return _database(stack, inner.url, name, inner.engine_kwargs)
    return _shared(stack, storage, name)


def _database(
    stack: ExitStack,
    url: str,
    name: str,
    options: Mapping[str, Any] | None = None,
) -> Opened:
    """Connects twice: a server may be about to start."""
    from lightning_noise.study.shared_database import SharedDatabase  # imports SQLAlchemy

    found = _twice(lambda: SharedDatabase(url, name, options), url)
    stack.callback(found.close)
    obstacle = ""
    if not found.patiently(found.can_write):
        obstacle = f"the user of storage {_shown(url)} may not write to it"
    return Opened(found.storage, obstacle=obstacle, claims=found)


def _by_url(stack: ExitStack, url: str, name: str) -> Opened:
    if backend(url) in DIALECTS:
        return _database(stack, url, name)
    file = sqlite_file(url)
    if file is not None:
        obstacle = stack.enter_context(_locked(file))
        return Opened(connected(url), obstacle=obstacle)
    if _SQLITE_MEMORY.match(url):
        return Opened(connected(url))
    return _shared(stack, connected(url), name)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for every other URL."""
    found = _SQLITE_FILE.match(url)
    if found is None:
        return None
    return Path(found[1])


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


def connected(url: str) -> BaseStorage:
    """Connects twice: two processes that set up the tables of a new database can collide."""
    return _twice(lambda: get_storage(url), url)


def _twice(connect: Callable[[], Connected], url: str) -> Connected:
    try:
        return connect()
    except ImportError as error:
        raise StorageError(f"Install the driver of storage {_shown(url)}: {error}") from error
    except Exception:  # each driver has its own errors
        time.sleep(1.0)
    try:
        return connect()
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
        raise StorageError(
            f"{in_use}. Wait for it, or use another file: only one process at a time can run "
            "studies in a file. Any number can share a database: "
            "storage='postgresql://user@host/database'."
        ) from error
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
