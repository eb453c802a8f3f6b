"""Which process runs a task: the rules that the work on a study follows."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lightning_noise.study.task import RunKey

Answer = TypeVar("Answer")


class Claims:
    """Where one process alone runs a study: every task is its own.

    ``SharedDatabase`` is the other kind.
    """

    shared = False  # whether other processes may work on the same study

    def claim(self, key: RunKey) -> bool:
        """Whether this process may do the run, and no other one until it releases the claim."""
        return True

    def release(self, key: RunKey) -> None:
        """Gives a claim back."""

    @contextmanager
    def holding(self, key: RunKey) -> Iterator[None]:
        """What is written inside is written only while the claim is held."""
        yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process sets up a study in the meantime."""
        yield

    def patiently(self, operation: Callable[[], Answer]) -> Answer:
        """The result of ``operation``, which is repeated while the storage is out of reach.

        It must be safe to repeat.
        """
        return operation()

    def holders(self, study: str, keys: Iterable[RunKey]) -> dict[RunKey, str]:
        """Run of ``study`` → who is doing it, as far as it can be seen from here."""
        return {}
