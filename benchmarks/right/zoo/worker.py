"""Measures entries in another process, so that a crash or an endless loop is a row too."""

import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import Connection
from types import TracebackType

import torch

from benchmarks.right.zoo.entry import Entry
from benchmarks.right.zoo.measure import first_line, measure
from benchmarks.right.zoo.models.catalogue import BY_KEY, package_of
from benchmarks.right.zoo.row import Row


def measured(entry: Entry) -> Row:
    """The row of an entry, also where its model cannot be built or trained."""
    try:
        return measure(entry)
    except Exception as error:  # whatever a package raises is what the row has to say
        return Row(entry.name, entry.package, code="error", reason=first_line(error))


def serve(connection: Connection) -> None:
    """Answers each key of an entry with its row, until there is none."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    while key := connection.recv():
        connection.send(measured(BY_KEY[key]))


class Worker:
    """A process that measures one entry after the other; closed at the end of the context.

    Args:
        limit: seconds for one entry.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()  # so that this end hears when the process is gone

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    @property
    def is_alive(self) -> bool:
        """Whether it can measure another one."""
        return self._process.is_alive()

    def row(self, key: str) -> Row:
        """The row of an entry; after a crash or a timeout the worker is gone."""
        entry = BY_KEY[key]
        failed = Row(entry.name, entry.package)
        self._connection.send(key)
        if not self._connection.poll(self._limit):
            self._process.kill()
            self._process.join()
            return failed._replace(code="timeout", reason=f"took more than {self._limit:g} seconds")
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            status = f"the process ended with status {self._process.exitcode}"
            return failed._replace(code="crash", reason=status)


def all_rows(keys: Sequence[str], limit: float) -> Iterator[Row]:
    """The rows of entries, those of one package in one process as long as it lives."""
    for _, of_package in groupby(keys, package_of):
        waiting = list(of_package)
        while waiting:
            with Worker(limit) as worker:
                while waiting and worker.is_alive:
                    yield worker.row(waiting.pop(0))
