"""The words of a table's columns ``phase`` and ``status``."""

from typing import Final

SEARCH: Final = "search"
RERUN: Final = "rerun"
PHASES: Final = (SEARCH, RERUN)

REACHED: Final = "reached"
INCOMPLETE: Final = "incomplete"
DIVERGED: Final = "diverged"
STATUSES: Final = (REACHED, INCOMPLETE, DIVERGED)
