"""The callback's part of a checkpoint: its version, and a clear error where it cannot be read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_noise.core.errors import NoiseScaleError

VERSION = 3  # 1 had no number and 2 one part per optimizer; both can still be read
PARTS = {"session": dict, "epoch_whole": bool}
OLD_PARTS = {"monitors": dict, "epoch_whole": bool}
TALLY = ("examples", "data_size", "epoch_began", "sizes", "first_size", "skipped")


class CheckpointError(NoiseScaleError, ValueError):
    """The state of ``GradientNoiseScale`` in a checkpoint cannot be read; the message says why and
    what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            "`GradientNoiseScale`: the state that this callback has in the checkpoint cannot be "
            "read. To resume without what "
            "it measured before, delete checkpoint['callbacks']['GradientNoiseScale'] (torch.load, "
            "del, torch.save). "
            f"Reason: {reason}"
        )


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint as this version writes it; an empty one is that of a run without
    steps.

    Raises:
        CheckpointError: it is of a later version, or a part is missing or of another kind.

    >>> upgraded({})
    {}
    """
    if not state:
        return {}
    version = state.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"it is of version {version}, and this lightning-noise reads versions up to {VERSION}."
        )
    for name, kind in (PARTS if version == VERSION else OLD_PARTS).items():
        if not isinstance(state.get(name), kind):
            raise CheckpointError(f"its part {name!r} is missing or damaged.")
    if version == VERSION:
        return dict(state)
    kept = {name: part for name, part in state.items() if name not in ("monitors", "curvature")}
    return {"open_epoch": None, **kept, "version": VERSION, "session": _session_of(state)}


def _session_of(old: Mapping[str, Any]) -> dict[str, Any]:
    """One dictionary of averages, from one monitor per optimizer and the curvatures beside them."""
    averages, tallies, steps = [], {}, {}
    for optimizer, monitor in old["monitors"].items():
        steps[optimizer] = monitor["optimizer_steps"]
        tallies[optimizer] = {name: monitor[name] for name in TALLY}
        for saved in monitor["keys"]:
            geometry, _, layer = saved["key"]
            key = [geometry, optimizer, layer]
            averages.append(
                {"key": key, "average": saved["windows"], "trajectory": saved["trajectory"]}
            )
    for geometry, average in old.get("curvature", {}).items():
        averages.append({"key": [geometry, "", ""], "average": average, "trajectory": None})
    return {"steps": steps, "tallies": tallies, "averages": averages}


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
        what = (
            f"its part {error} is missing"
            if isinstance(error, KeyError)
            else f"{type(error).__name__}: {error}"
        )
        raise CheckpointError(f"{what}.") from error
