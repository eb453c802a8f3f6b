"""A PostgreSQL server of one's own in a temporary folder, on a free port of this machine."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"  # the server refuses to run as root
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 60
"""


def binaries() -> Path | None:
    """The folder of the server's programs; None where it is not installed."""
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(on_path).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if versions:
        return versions[-1].parent
    return None


class Server:
    """A server that can be stopped and started again. Its data are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        found = binaries()
        if found is None:
            raise FileNotFoundError("PostgreSQL is not installed: apt-get install postgresql")
        self._bin = found
        self._data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        self._call("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-N", "-E", "UTF8")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{SETTINGS}port = {self.port}\n")
        self.start()

    def url(self, database: str = "postgres") -> str:
        """For Optuna."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new, empty database; returns its URL."""
        self.ask(f"CREATE DATABASE {database}")
        return self.url(database)

    def ask(self, statement: str, database: str = "postgres") -> list[tuple]:
        """The rows of one SQL statement."""
        import psycopg

        url = self.url(database)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            if cursor.description is None:
                return []
            return cursor.fetchall()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        log = self._data / "log"
        self._call("pg_ctl", "-D", self._data, "-l", log, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stops it; "immediate" is a crash."""
        self._call("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def _call(self, program: str, *arguments: object) -> None:
        user = None
        if os.geteuid() == 0:
            user = USER
        subprocess.run(
            [str(self._bin / program), *map(str, arguments)],
            user=user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )


@contextmanager
def running() -> Iterator[Server]:
    """A server that ends, with its data, at the end of the context."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()
