"""The callback's part of a checkpoint: its version, and a clear error where it cannot be read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

VERSION = 2  # 1 had no number, and did not keep learning rates apart; it can still be read
PARTS = {"monitors": dict, "epoch_whole": bool}


class CheckpointError(ValueError):
    """The state of ``GradientNoiseScale`` in a checkpoint cannot be read; the message says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "`GradientNoiseScale`: the state that this callback has in the checkpoint cannot be read. To resume without what "
            "it measured before, delete checkpoint['callbacks']['GradientNoiseScale'] (torch.load, del, torch.save). "
            f"Reason: {reason}"
        )


def check_state(state: Mapping[str, Any]) -> None:
    """Compares the state of a checkpoint with what this version writes; an empty one is that of a run without steps.

    Raises:
        CheckpointError: it is of a later version, or a part is missing or of another kind.

    >>> check_state({"version": 1, "monitors": {}, "epoch_whole": False})
    >>> check_state({"version": 99, "monitors": {}, "epoch_whole": False})
    Traceback (most recent call last):
    lightning_noise.hosts.lightning.checkpoint.CheckpointError: `GradientNoiseScale`: the state that this callback has in the \
checkpoint cannot be read. To resume without what it measured before, delete checkpoint['callbacks']['GradientNoiseScale'] \
(torch.load, del, torch.save). Reason: it is of version 99, and this lightning-noise reads versions up to 2.
    """
    if not state:
        return
    version = state.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(f"it is of version {version}, and this lightning-noise reads versions up to {VERSION}.")
    for name, kind in PARTS.items():
        if not isinstance(state.get(name), kind):
            raise CheckpointError(f"its part {name!r} is missing or damaged.")


@contextmanager
def reading_checkpoint(state: Mapping[str, Any] | None) -> Iterator[None]:
    """Turns what goes wrong on reading ``state`` into a :class:`CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if not state:
            raise
        what = f"its part {error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{what}.") from error
