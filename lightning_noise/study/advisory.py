"""Advisory locks of database servers: the SQL that takes one on a connection, and frees it.

Such a lock belongs to a connection. The server frees it when the connection ends, so a process that
is killed loses its locks at once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

# Seconds without a sign of life after which the server ends a connection: that of a paused process,
# or of a machine that has vanished. A killed process has its connection closed by its system.
SILENCE = 60


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a kind of server understands.

    Args:
        try_lock: takes lock ``:key`` unless another connection has it; gives whether it did, and
            the number of the connection on the server.
        unlock: frees lock ``:key``.
        connection: gives the number of the connection on the server.
        prepare: statements for a new connection; ``{silence}`` is in seconds, ``{name}`` names this
            process.
        holder: gives who has lock ``:key``; no row where it is free.
        can_write: gives whether this user may store runs; empty: it is not asked.
        options: arguments of a new connection, by name of the driver.
    """

    try_lock: str
    unlock: str
    connection: str
    prepare: Sequence[str]
    holder: str
    can_write: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))

    def lock(self, *parts: object) -> int | str:
        """The lock of something, as the server names locks: here a number of 64 bits."""
        return int.from_bytes(_hash(parts)[:8], "big", signed=True)


class NamedLocks(Dialect):
    """For a server whose locks have names."""

    def lock(self, *parts: object) -> int | str:
        """A name of at most 64 characters."""
        return f"lightning-noise {_hash(parts).hex()[:40]}"


def _hash(parts: Sequence[object]) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


# A dead server or a cut line shows after a minute; without this the system waits for hours.
_LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

POSTGRES = Dialect(
    try_lock="SELECT pg_try_advisory_lock(:key), pg_backend_pid()",
    unlock="SELECT pg_advisory_unlock(:key)",
    connection="SELECT pg_backend_pid()",
    prepare=(
        "SELECT set_config('application_name', '{name}', false)",
        # a process that is paused inside a transaction would keep all others from writing
        "SELECT set_config('idle_in_transaction_session_timeout', '{silence}s', false)",
        "SELECT set_config('idle_session_timeout', '{silence}s', false) "
        "WHERE current_setting('server_version_num')::int >= 140000",
        "SELECT set_config('tcp_keepalives_idle', '30', false), "
        "set_config('tcp_keepalives_interval', '10', false), "
        "set_config('tcp_keepalives_count', '3', false)",
    ),
    # a lock of 64 bits is listed in two halves
    holder=(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE (l.classid::bigint << 32) | l.objid::bigint = :key AND "
        "l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    ),
    can_write="SELECT has_table_privilege('trials', 'INSERT')",
    options={"psycopg": _LIBPQ, "psycopg2": _LIBPQ},
)

MYSQL = NamedLocks(
    try_lock="SELECT GET_LOCK(:key, 0), CONNECTION_ID()",
    unlock="SELECT RELEASE_LOCK(:key)",
    connection="SELECT CONNECTION_ID()",
    prepare=("SET SESSION wait_timeout = {silence}",),
    holder="SELECT host FROM information_schema.processlist WHERE id = IS_USED_LOCK(:key)",
    options={
        "pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
        "mysqldb": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
    },
)

# backend of a URL → how its locks are taken; every other storage has one process at a time
DIALECTS: dict[str, Dialect] = {"postgresql": POSTGRES, "mysql": MYSQL, "mariadb": MYSQL}


def backend(url: str) -> str:
    """The kind of database that a URL names, such as ``postgresql``."""
    name = url.partition(":")[0].partition("+")[0]
    if name == "postgres":
        return "postgresql"
    return name
