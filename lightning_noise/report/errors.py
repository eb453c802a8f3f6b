"""Errors that the user of a table can fix. Every other one is a bug and keeps its traceback."""


class TableError(ValueError):
    """The table does not hold what is asked of it."""


class NoMatplotlibError(ImportError):
    """Figures need matplotlib, which is not installed."""
