"""Errors that the user of a table or log can fix.

Every other one is a bug and keeps its traceback.
"""


class TableError(ValueError):
    """The table does not hold what is asked of it."""


class NoMatplotlibError(ImportError):
    """Figures need matplotlib, which is not installed."""


class ReportError(ValueError):
    """The logs or arguments of a report cannot be used."""
