"""Names of goals as parts of file names."""

import re
from collections.abc import Sequence


def file_names(goals: Sequence[str]) -> dict[str, str]:
    """Every goal's name as part of a file name; numbered where two would be the same.

    >>> file_names(["val/loss <= 0.3", "acc >= 0.9", "acc <= 0.9"])
    {'val/loss <= 0.3': 'val_loss_0.3', 'acc >= 0.9': 'acc_0.9', 'acc <= 0.9': 'acc_0.9_2'}
    """
    names: dict[str, str] = {}
    for goal in goals:
        stem = re.sub(r"[^\w.]+", "_", goal).strip("_.") or "goal"
        name, copies = stem, 1
        while name in names.values():
            copies += 1
            name = f"{stem}_{copies}"
        names[goal] = name
    return names
