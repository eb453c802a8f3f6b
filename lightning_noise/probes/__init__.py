"""Floor 2: torch, but no Lightning. Probes watch a backward pass and return squared norms."""
