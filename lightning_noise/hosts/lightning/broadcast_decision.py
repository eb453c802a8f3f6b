"""What rank 0 decides from the reduced numbers, on all ranks."""

from collections.abc import Callable
from typing import TypeVar

import lightning as L

Decided = TypeVar("Decided")


def from_rank_zero(trainer: L.Trainer, decide: Callable[[], Decided]) -> Decided:
    """What ``decide`` returns on rank 0, on all ranks; one broadcast.

    Raises:
        RuntimeError: ``decide`` raised. It is raised on all ranks alike, or the others would wait
            forever.
    """
    decided: Decided | None = None
    error: Exception | None = None
    if trainer.is_global_zero:
        try:
            decided = decide()
        except Exception as raised:  # a user's policy may raise anything
            error = raised
    reason = ""
    if error is not None:
        reason = f"{type(error).__name__}: {error}"
    decided, reason = trainer.strategy.broadcast((decided, reason))
    if decided is None:
        message = f"GradientNoiseScale: no batch size could be decided. {reason}"
        raise RuntimeError(message) from error
    return decided
