"""Words of a table: of its columns ``phase`` and ``status``, and the column of times."""

from typing import Final

SEARCH: Final = "search"
REPEAT: Final = "repeat"
RERUN: Final = "rerun"
PHASES: Final = (SEARCH, REPEAT, RERUN)

REACHED: Final = "reached"
INCOMPLETE: Final = "incomplete"
DIVERGED: Final = "diverged"
STATUSES: Final = (REACHED, INCOMPLETE, DIVERGED)

SECONDS: Final = "seconds"
