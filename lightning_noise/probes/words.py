"""Counts in words."""


def count(number: int, thing: str) -> str:
    """A number and what it counts, in the singular or plural.

    >>> count(1, "rank"), count(2, "micro-batch")
    ('1 rank', '2 micro-batches')
    """
    if number == 1:
        return f"1 {thing}"
    if thing.endswith("ch"):
        return f"{number} {thing}es"
    return f"{number} {thing}s"
