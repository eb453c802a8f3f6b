"""A study in a database that any number of processes work on, on any machines.

Each process has one connection. The locks of its tasks live on it, and its runs are written through
it: when the connection ends, the locks are free and nothing more can be written. So there is no
moment in which two processes can store the same run, however long one of them was paused.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.pool import NullPool

from lightning_noise.study import advisory
from lightning_noise.study.advisory import DIALECTS, Dialect, backend
from lightning_noise.study.claims import Answer, Claims
from lightning_noise.study.errors import StorageError
from lightning_noise.study.task import RunKey

BEAT = 10.0  # seconds between two signs of life
OUTAGE = 900.0  # seconds for which a server may be out of reach
RETRY = 1.0  # seconds between two attempts to reach it
SETTLE = 1.5  # beats after a reconnection in which the others may take their own tasks again

_log = logging.getLogger(__name__)
_SCHEMA = "the tables of Optuna"
_SETUP = "the settings of a study"


class ClaimLostError(Exception):
    """The connection that held a claim has ended."""


# The last one: the connection ended inside of a transaction, and something was tried after that.
OUTAGES = (ClaimLostError, OperationalError, InterfaceError, PendingRollbackError)


def is_outage(error: BaseException) -> bool:
    """Whether the server could not be reached, or ended the connection."""
    if isinstance(error, OUTAGES):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return error.__cause__ is not None and is_outage(error.__cause__)


class SharedDatabase(Claims):
    """The connection of this process to the database that holds study ``name``.

    Args:
        url: of the database.
        name: of the study, whose locks are taken.
        options: of Optuna's engine.

    Raises:
        ImportError: the driver is not installed.
    """

    shared = True

    def __init__(
        self,
        url: str,
        name: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._dialect = DIALECTS[backend(url)]
        self._held: set[RunKey] = set()  # on the present connection
        self._wanted: set[RunKey] = set()  # to be held again after a reconnection
        self._pinned = False
        self._number: object = None  # of the connection on the server
        self._settled = 0.0  # time before which no new task is claimed
        self._busy = threading.RLock()
        self._ended = threading.Event()
        url = with_driver(url)
        arguments = _engine_arguments(self._dialect, url, options or {})
        with self._schema_lock(url, arguments):
            self.storage = RDBStorage(url, dict(arguments))
            self.storage.engine.dispose()
        # Optuna sets up its tables on two connections at once; everything else happens on this one
        self._engine = sqlalchemy.create_engine(url, **arguments, pool_size=1, max_overflow=0)
        self.storage.scoped_session.remove()
        self.storage.scoped_session.configure(bind=self._engine)
        sqlalchemy.event.listen(self._engine, "do_connect", self._refuse_while_pinned)
        sqlalchemy.event.listen(self._engine, "connect", self._prepare)
        self._thread = threading.Thread(target=self._stay, daemon=True)
        self._thread.start()

    def can_write(self) -> bool:
        """Whether this user of the database may store runs."""
        if not self._dialect.can_write:
            return True
        return bool(self._row(self._dialect.can_write)[0])

    def close(self) -> None:
        """Ends the connection, and with it all claims."""
        self._ended.set()
        self._thread.join()
        self.storage.scoped_session.remove()
        self._engine.dispose()

    def claim(self, key: RunKey) -> bool:
        """Takes the lock of a run.

        Raises:
            StorageError: the connection goes through a pool that changes it between statements.
        """
        with self._busy:
            if key in self._held:
                return True
            if key not in self._wanted and time.monotonic() < self._settled:
                return False
            if not self._try_lock(self._lock(self._name, *key)):
                return False
            self._held.add(key)
            self._wanted.add(key)
            return True

    def release(self, key: RunKey) -> None:
        """Frees the lock of a run; a lost connection has freed it already."""
        with self._busy:
            self._wanted.discard(key)
            if key in self._held:
                self._held.discard(key)
                self._row(self._dialect.unlock, key=self._lock(self._name, *key))

    @contextmanager
    def holding(self, key: RunKey) -> Iterator[None]:
        """Keeps the connection what it is: inside, a lost one is an error and not replaced.

        Raises:
            ClaimLostError: the claim is not held.
        """
        self._pinned = True
        try:
            if key not in self._held:
                raise ClaimLostError(f"the claim of {key} was lost")
            yield
        finally:
            self._pinned = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for the lock of the study's settings."""
        lock = self._lock(self._name, _SETUP)
        while not self._try_lock(lock):
            time.sleep(RETRY / 10)
        try:
            yield
        finally:
            try:
                self._row(self._dialect.unlock, key=lock)
            except Exception as error:
                if not is_outage(error):  # with the connection the lock has gone
                    raise

    def patiently(self, operation: Callable[[], Answer]) -> Answer:
        """Repeats ``operation`` while the server cannot be reached, for up to ``OUTAGE`` seconds.

        Raises:
            StorageError: it was out of reach for longer.
        """
        begin = time.monotonic()
        warned = False
        while True:
            try:
                return operation()
            except Exception as error:
                if not is_outage(error):
                    raise
                if time.monotonic() - begin > OUTAGE:
                    raise StorageError(
                        f"Check the database server and run the study again: it was out of reach "
                        f"for {OUTAGE:g} s ({_in_short(error)}). Finished runs are kept."
                    ) from error
                if not warned:
                    text = f"The database cannot be reached ({_in_short(error)}); trying again."
                    _log.warning(text)
                    warned = True
            time.sleep(RETRY)

    def holders(self, study: str, keys: Iterable[RunKey]) -> dict[RunKey, str]:
        """Run of ``study`` → the process that does it."""
        found = {}
        statement = sqlalchemy.text(self._dialect.holder)
        with self._engine.connect() as connection:
            for key in keys:
                row = connection.execute(statement, {"key": self._lock(study, *key)}).first()
                if row is not None:
                    found[key] = str(row[0])
        return found

    def _lock(self, *parts: object) -> int | str:
        """MySQL's locks are those of the server, so the database belongs to the name."""
        return self._dialect.lock(str(self._engine.url.database), *parts)

    def _try_lock(self, lock: int | str) -> bool:
        taken, number = self._row(self._dialect.try_lock, key=lock)
        if number != self._number:
            raise StorageError(
                "Give the address of the database server itself, or set its pool to session "
                "pooling: the connection goes through a pool that changes it between statements, "
                "so that it cannot hold the lock of a run."
            )
        return bool(taken)

    def _row(self, statement: str, **values: object) -> Any:
        with self._engine.begin() as connection:
            return connection.execute(sqlalchemy.text(statement), values).one()

    def _refuse_while_pinned(self, *_: object) -> None:
        if self._pinned:
            raise ClaimLostError("the connection was lost while a run was stored")

    def _prepare(self, connection: Any, _: object) -> None:
        """Sets up a new connection, which holds nothing yet."""
        self._held = set()
        if self._number is not None:
            self._settled = time.monotonic() + SETTLE * BEAT
        name = f"{socket.gethostname()[:40]}:{os.getpid()}".replace("'", "")
        cursor = connection.cursor()
        for statement in self._dialect.prepare:
            cursor.execute(statement.format(silence=advisory.SILENCE, name=name))
        cursor.execute(self._dialect.connection)
        self._number = cursor.fetchone()[0]
        cursor.close()
        connection.commit()

    def _stay(self) -> None:
        pause = BEAT
        while not self._ended.wait(pause):
            pause = RETRY  # out of reach: the connection may be back soon
            with suppress(Exception):
                self._renew()
                pause = BEAT

    def _renew(self) -> None:
        """Shows the server that this process lives, and takes lost claims again."""
        self._row(self._dialect.connection)
        with self._busy:
            for key in self._wanted - self._held:
                self.claim(key)

    @contextmanager
    def _schema_lock(self, url: str, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Processes that create the tables of an empty database at once would crash each other."""
        options = {"connect_args": arguments.get("connect_args", {})}
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, **options)
        lock = self._dialect.lock(str(engine.url.database), _SCHEMA)
        with ExitStack() as stack:
            stack.callback(engine.dispose)
            connection = stack.enter_context(engine.connect())
            statement = sqlalchemy.text(self._dialect.try_lock)
            while not connection.execute(statement, {"key": lock}).one()[0]:
                connection.rollback()
                time.sleep(RETRY / 10)
            yield
            # a proxy in between may keep the connection when it is closed here
            connection.execute(sqlalchemy.text(self._dialect.unlock), {"key": lock})


def has_tables(url: str) -> bool:
    """Whether a database has the tables of Optuna.

    Raises:
        StorageError: it cannot be reached.
    """
    try:
        engine = sqlalchemy.create_engine(with_driver(url), poolclass=NullPool)
        found: bool = sqlalchemy.inspect(engine).has_table("studies")
    except (ImportError, DBAPIError) as error:
        raise StorageError(f"the database cannot be read ({_in_short(error)}).") from error
    return found


def with_driver(url: str) -> str:
    """The URL of a PostgreSQL database with the driver that the extra ``postgres`` installs.

    Without a name SQLAlchemy takes psycopg2 or psycopg, depending on its version.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql") and find_spec("psycopg") is not None:
        return f"postgresql+psycopg{separator}{rest}"
    return url


def _engine_arguments(
    dialect: Dialect,
    url: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    driver = sqlalchemy.make_url(url).get_driver_name()
    own = dict(dialect.options.get(driver, {}))
    own.update(options.get("connect_args", {}))
    kept = {}
    for name, value in options.items():
        if not name.startswith("pool") and name != "max_overflow":
            kept[name] = value
    return {**kept, "connect_args": own}


def _in_short(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
