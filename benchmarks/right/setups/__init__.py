"""Which set-ups are supported, and what the others are refused with."""
