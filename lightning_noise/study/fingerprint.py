"""What determines the result of a run besides a study's settings: the code and options it uses."""

import difflib
import hashlib
from collections.abc import Mapping
from typing import Any

from lightning_noise.study.source import definitions

MOST_TEXT = 30_000  # characters kept for each part; MySQL has 65 535 bytes for an attribute
LONGEST = 6_000  # characters of one definition
SHOWN = 24  # lines of a difference in an error

Fingerprint = dict[str, dict[str, str]]


def fingerprint(parts: Mapping[str, Any]) -> Fingerprint:
    """Part (``make_module``, …) → name of a definition → its text, bounded.

    The rest of a text beyond the bound counts by its hash.
    """
    found = {}
    for part, value in parts.items():
        found[part] = _bounded(definitions(value))
    return found


def _bounded(texts: Mapping[str, str]) -> dict[str, str]:
    room = MOST_TEXT
    kept = {}
    for name, text in texts.items():
        kept[name] = _cut(text, min(LONGEST, room))
        room = max(0, room - len(kept[name]))
    return kept


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
    return f"{text[:room]}\n… {len(text)} characters in all, sha256 {digest}"


def changed(stored: Fingerprint, present: Fingerprint) -> list[str]:
    """The parts that differ."""
    parts = sorted({*stored, *present})
    return [part for part in parts if stored.get(part) != present.get(part)]


def difference(stored: Fingerprint, present: Fingerprint) -> str:
    """Both sides of every definition that differs, as a short diff."""
    lines: list[str] = []
    for part in changed(stored, present):
        before = stored.get(part, {})
        now = present.get(part, {})
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) == now.get(name):
                continue
            title = part
            if name:
                title = f"{part}, {name}"
            lines.append(f"{title} (- stored, + now):")
            lines += _diff(before.get(name, ""), now.get(name, ""))
    more = len(lines) - SHOWN
    if more > 0:
        lines = [*lines[:SHOWN], f"… and {more} more lines"]
    return "\n".join(lines)


def _diff(before: str, now: str) -> list[str]:
    lines = difflib.unified_diff(
        before.splitlines(),
        now.splitlines(),
        lineterm="",
        n=1,
    )
    content = list(lines)[2:]  # the first two lines name files, of which there are none
    return [f"  {line}" for line in content if line[:2] != "@@"]
