"""One process per study on a storage that several can reach at once, such as a database.

Optuna's storages have no compare-and-set, so this is Fischer's algorithm: write a name, wait, and
continue if the name is still there. While the study runs, a thread increments a counter next to the
name. Another process that sees the counter stop replaces a killed owner; clocks of different
machines are never compared.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.storages import BaseStorage

from lightning_noise.study.errors import StorageError
from lightning_noise.study.space import quiet

BEAT = 5.0  # seconds between two heartbeats
SILENCE = 20.0  # seconds without one after which an owner counts as dead
SETTLE = 1.0  # longer than a write takes to be seen by others

_log = logging.getLogger(__name__)


class Owner:
    """This process as the owner of study ``name``: an attribute of a separate Optuna study.

    Raises:
        StorageError: another process runs the study.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        with quiet():
            self._record = optuna.create_study(
                storage=storage,
                study_name=f"{name}/owner",
                load_if_exists=True,  # also where another process creates it at this moment
            )
        self._name = name
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show_life, daemon=True)
        self._wait_for_silence()
        self._write()
        time.sleep(SETTLE)
        self.check()
        self._thread.start()

    def check(self) -> None:
        """Refuses to continue where another process has become the owner."""
        found = self._read()
        if self._lost or found.get("token") != self._token:
            self._lost = True
            raise self._in_use(found)

    def close(self) -> None:
        """Ends the thread and lets others run the study."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if not self._lost and self._read().get("token") == self._token:
            self._record.set_user_attr("owner", {})

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = self._record.user_attrs.get("owner", {})
        return found

    def _write(self) -> None:
        process = f"process {os.getpid()} on {socket.gethostname()}"
        value = {
            "token": self._token,
            "beats": self._beats,
            "process": process,
        }
        self._record.set_user_attr("owner", value)

    def _wait_for_silence(self) -> None:
        found = self._read()
        if not found:
            return
        _log.warning(
            f"{found['process']} was running study {self._name!r} in this storage; waiting for up "
            f"to {SILENCE:g} s to see whether it still is."
        )
        end = time.monotonic() + SILENCE
        while time.monotonic() < end:
            time.sleep(BEAT / 10)
            now = self._read()
            if not now:
                return
            if now != found:
                raise self._in_use(now)

    def _in_use(self, found: dict[str, Any]) -> StorageError:
        return StorageError(
            f"{found.get('process', 'another process')} is running study {self._name!r} in this "
            "storage. Wait until it has ended (or take another name or storage): only one process "
            "may run a study, with as many workers as it likes. If it was killed, its place is "
            f"free {SILENCE:g} s later. Finished runs are kept."
        )

    def _show_life(self) -> None:
        while not self._lost and not self._ended.wait(BEAT):
            # a database may be out of reach for a moment; the next beat tries again
            with suppress(Exception):
                self._beat()

    def _beat(self) -> None:
        if self._read().get("token") != self._token:
            self._lost = True
            return
        self._beats += 1
        self._write()


@contextmanager
def owned(storage: BaseStorage, name: str) -> Iterator[Owner]:
    """Owns the study while the context lasts."""
    owner = Owner(storage, name)
    try:
        yield owner
    finally:
        owner.close()
