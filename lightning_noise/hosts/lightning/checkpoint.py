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
            "read. To resume without what it measured before, delete "
            "checkpoint['callbacks']['GradientNoiseScale'] (torch.load, del, torch.save). "
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
    if version == VERSION:
        _check_parts(state, PARTS)
        return dict(state)
    _check_parts(state, OLD_PARTS)
    kept = dict(state)
    kept.pop("monitors")
    kept.pop("curvature", None)
    return {
        "open_epoch": None,
        **kept,
        "version": VERSION,
        "session": _session_of(state),
    }


def _check_parts(state: Mapping[str, Any], parts: Mapping[str, type]) -> None:
    for name, kind in parts.items():
        if not isinstance(state.get(name), kind):
            raise CheckpointError(f"its part {name!r} is missing or damaged.")


def _session_of(old: Mapping[str, Any]) -> dict[str, Any]:
    """One dictionary of averages, from one monitor per optimizer and the curvatures beside them."""
    averages: list[dict[str, Any]] = []
    tallies: dict[str, dict[str, Any]] = {}
    steps: dict[str, int] = {}
    for optimizer, monitor in old["monitors"].items():
        steps[optimizer] = monitor["optimizer_steps"]
        tallies[optimizer] = {name: monitor[name] for name in TALLY}
        for saved in monitor["keys"]:
            geometry, _, layer = saved["key"]
            average = {
                "key": [geometry, optimizer, layer],
                "average": saved["windows"],
                "trajectory": saved["trajectory"],
            }
            averages.append(average)
    for geometry, average in old.get("curvature", {}).items():
        curvature = {
            "key": [geometry, "", ""],
            "average": average,
            "trajectory": None,
        }
        averages.append(curvature)
    return {"steps": steps, "tallies": tallies, "averages": averages}


@contextmanager
def reading_checkpoint(state: Mapping[str, Any] | None) -> Iterator[None]:
    """Turns an error that reading ``state`` raises into a :class:`CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        if not state:
            raise
        raise CheckpointError(f"its part {error} is missing.") from error
    except (TypeError, IndexError, AttributeError, ValueError) as error:
        if not state:
            raise
        raise CheckpointError(f"{type(error).__name__}: {error}.") from error
