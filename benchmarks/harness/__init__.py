"""What all benchmarks share: their specification, files, rounds, tables and pages."""
