"""Floor 2: torch. Probes watch a backward pass and hand out squared gradient norms; no Lightning
here.
"""
