"""All entries. A package is imported only when one of its models is built."""

from benchmarks.right.zoo.entry import Entry
from benchmarks.right.zoo.models import (
    from_diffusers,
    from_layers,
    from_others,
    from_timm,
    from_torchvision,
    from_transformers,
    from_transformers_media,
)
from benchmarks.right.zoo.row import Row

ENTRIES: tuple[Entry, ...] = (
    *from_layers.ENTRIES,
    *from_torchvision.ENTRIES,
    *from_timm.ENTRIES,
    *from_transformers.ENTRIES,
    *from_transformers_media.ENTRIES,
    *from_diffusers.ENTRIES,
    *from_others.ENTRIES,
)


def key(entry: Entry | Row) -> str:
    """What an entry, or its row, is called on the command line, unique: "timm/CaiT"."""
    return f"{entry.package}/{entry.name}"


def package_of(key: str) -> str:
    """The package in a key."""
    return key.partition("/")[0]


BY_KEY = {key(entry): entry for entry in ENTRIES}
