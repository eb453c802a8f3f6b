"""Reads TensorBoard's event files."""

import math
from pathlib import Path
from typing import Any

from lightning_noise.report.page.log import LoggedText, Point, RunLog, logs_of
from lightning_noise.say.log_keys import PREFIX, without_prefix

PATTERN = "*tfevents*"
TEXT = "/text_summary"  # what SummaryWriter.add_text appends to a name
KEEP_ALL = 0
LAST_ALONE = 1


def has_event_files(folder: Path) -> bool:
    """Whether a folder holds event files itself."""
    return any(path.is_file() for path in folder.glob(PATTERN))


def read_event_files(folder: Path) -> list[RunLog]:
    """The scalars of the noise scale and its last texts in the event files of a folder.

    Other kinds are not kept.
    """
    # a third of a second, which no other command needs; tensorboard ships no types
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
        event_accumulator as accumulators,
    )

    guidance = {
        accumulators.SCALARS: KEEP_ALL,
        accumulators.TENSORS: LAST_ALONE,
        accumulators.IMAGES: LAST_ALONE,
        accumulators.AUDIO: LAST_ALONE,
        accumulators.HISTOGRAMS: LAST_ALONE,
        accumulators.COMPRESSED_HISTOGRAMS: LAST_ALONE,
    }
    events = accumulators.EventAccumulator(
        str(folder),
        guidance,
        purge_orphaned_data=False,  # a run that was resumed is put in order by its order of logging
    )
    events.Reload()
    tags = events.Tags()
    scalars = {}
    for name in tags["scalars"]:
        if without_prefix(name) is not None:
            scalars[name] = [
                Point(event.step, event.value, event.wall_time)
                for event in events.Scalars(name)
                if math.isfinite(event.value)
            ]
    texts = {}
    for name in tags["tensors"]:
        if name.startswith(PREFIX) and name.endswith(TEXT):
            texts[name.removesuffix(TEXT)] = _last_text(events.Tensors(name))
    return logs_of(str(folder), scalars, texts, timed=True)


def _last_text(events: list[Any]) -> LoggedText:
    event = events[-1]
    text = event.tensor_proto.string_val[0].decode("utf-8", "replace")
    return LoggedText(event.step, text.replace("  \n", "\n"))
