"""Floor 1: pure maths on Python floats. Standard library alone; no torch, no Lightning, no I/O."""
