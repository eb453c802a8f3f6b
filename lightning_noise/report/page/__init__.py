"""The report of runs: from what their loggers wrote to one HTML page."""
