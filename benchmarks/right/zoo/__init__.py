"""The model zoo: what the callback measures on models that nobody wrote for it."""
