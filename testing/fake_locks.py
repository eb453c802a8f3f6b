"""Advisory locks for SQLite, so that what shares a database can be tested without a server.

The locks are held in this process, each by a connection, and end with it as a server's do.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightning_noise.study.advisory import Dialect

DIALECT = Dialect(
    try_lock="SELECT try_lock(:key), number()",
    unlock="SELECT unlock(:key)",
    connection="SELECT number()",
    prepare=("-- {name} lives for {silence} s",),
    holder="SELECT holder(:key) WHERE holder(:key) IS NOT NULL",
)


@dataclass
class Locks:
    """The locks of one server, and its connections.

    Attributes:
        held: lock → number of the connection that has it.
        open: number → connection.
        down: whether no connection can be made.
    """

    held: dict[int, int] = field(default_factory=dict)
    open: dict[int, Any] = field(default_factory=dict)
    down: bool = False
    _numbers: Any = field(default_factory=itertools.count)

    def register(self, connection: Any) -> None:
        """Gives a new connection the functions that DIALECT calls."""
        number = next(self._numbers)
        self.open[number] = connection

        def try_lock(key: int) -> bool:
            return self.held.setdefault(key, number) == number

        def unlock(key: int) -> bool:
            return self.held.pop(key, None) is not None

        def holder(key: int) -> str | None:
            if key not in self.held:
                return None
            return f"connection {self.held[key]}"

        functions: dict[str, tuple[int, Callable[..., Any]]] = {
            "try_lock": (1, try_lock),
            "unlock": (1, unlock),
            "holder": (1, holder),
            "number": (0, lambda: number),
        }
        for name, (arguments, function) in functions.items():
            connection.create_function(name, arguments, function)

    def end(self, number: int) -> None:
        """The server ends a connection: its locks are free, and its next use is an error."""
        self.open.pop(number).close()
        self._free(number)

    def forget(self, connection: Any) -> None:
        """A process ends its connection."""
        for number, other in list(self.open.items()):
            if other is connection:
                del self.open[number]
                self._free(number)

    def _free(self, number: int) -> None:
        for key in [key for key, by in self.held.items() if by == number]:
            del self.held[key]
